"""A package, so that no package of that name which others install comes before it."""
