"""What the pages of `coda demo` and `coda eval` are written with: markup, charts, pictures, and one style sheet."""
