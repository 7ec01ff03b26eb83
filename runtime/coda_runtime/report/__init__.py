"""What the pages of `coda demo`, `coda eval` and `coda bench` are written with: markup, charts, one style sheet."""
