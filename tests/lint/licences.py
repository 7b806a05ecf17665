#!/usr/bin/env python3
"""Fails when a dependency's licence does not allow shipping it inside an Apache-2.0 binary."""

import json
import re
import subprocess
import sys

ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0",
    "CC0-1.0", "CDLA-Permissive-2.0", "ISC", "MIT", "MIT-0", "Unicode-3.0", "Unlicense", "Zlib",
}  # fmt: skip


def allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met with allowed licences only ("/" is the old "OR")."""
    terms = re.split(r"(\(|\)|\s+AND\s+|\s+OR\s+|/)", expression)
    words = {"AND": "and", "OR": "or", "/": "or", "(": "(", ")": ")"}
    terms = [term.strip() for term in terms if term.strip()]
    return bool(eval(" ".join(words.get(term) or str(term in ALLOWED) for term in terms)))  # only True, False, and, or, ( )


metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--format-version", "1", "--locked"]))
refused = [
    f"{package['name']} {package['version']}: {package['license'] or 'no licence named'}"
    for package in metadata["packages"]
    if not (package["license"] and allowed(package["license"]))
]
print("\n".join(refused) or f"licences: {len(metadata['packages'])} packages, all allowed", file=sys.stderr)
sys.exit(bool(refused))
