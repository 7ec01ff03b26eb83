"""Families of continuous VAEs: one file a class says how it is read, encodes, decodes, learns, and is folded."""

from coda_deploy.families.base import ABILITIES, CLASS, Family, Settings, Shape, Statistics
from coda_deploy.families.registry import (
    DEFAULT,
    FAMILIES,
    REFUSED,
    USER_MODULE,
    family_of,
    family_of_module,
    named,
)

__all__ = [
    "ABILITIES",
    "CLASS",
    "DEFAULT",
    "FAMILIES",
    "REFUSED",
    "USER_MODULE",
    "Family",
    "Settings",
    "Shape",
    "Statistics",
    "family_of",
    "family_of_module",
    "named",
]
