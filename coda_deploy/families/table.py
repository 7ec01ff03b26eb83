"""The table of families in docs/training.md, made of the registry."""

from __future__ import annotations

from coda_deploy.families.base import ABILITIES, Family
from coda_deploy.families.registry import FAMILIES, REFUSED, USER_MODULE

BEGIN, END = "<!-- families -->", "<!-- /families -->"
"""What stands around it on the page."""


def families_table() -> str:
    """Return the page's lines between the two comments."""
    head = ["class", "models", "LoRA goes to", "an export folds", "left behind", *ABILITIES]
    rows = [_row(family) for family in FAMILIES.values()]
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    reasons = [(family, what, why) for family in FAMILIES.values() for what, why in _no(family)]
    cannot = "\n".join(f"- {family.class_name}, {what}: {why}." for family, what, why in reasons)
    refused: dict[str, list[str]] = {}
    for name, reason in REFUSED.items():
        refused.setdefault(reason, []).append(name)
    others = "\n".join(f"- {', '.join(names)}: {reason}." for reason, names in refused.items())
    return f"{table}\n\nWhat a family cannot do, and why:\n\n{cannot}\n\nRefused by name:\n\n{others}"


def _row(family: Family) -> list[str]:
    name = f"`{family.class_name}`" if family is not USER_MODULE else "your own"
    targets = ", ".join(f"`{target}`" for target in family.lora_targets if target) or "every layer"
    able = ["no" if ability in family.cannot else "yes" for ability in ABILITIES]
    return [name, family.models, targets, family.folds, family.left_behind or "nothing", *able]


def _no(family: Family) -> list[tuple[str, str]]:
    return [(ability, family.cannot[ability]) for ability in ABILITIES if ability in family.cannot]
