"""The commands that coda-deploy adds to `coda`, through the entry-point group coda.commands."""
