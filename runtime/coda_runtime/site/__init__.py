"""`coda site`: one static folder, a page that runs a bundle in the browser."""

from .engine import ENGINE_VERSION
from .write import SITE_FILE, Site, write_site

__all__ = ["ENGINE_VERSION", "SITE_FILE", "Site", "write_site"]
