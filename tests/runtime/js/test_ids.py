"""Ids as callers of runtime/js pass them: what JSON cannot carry too, so that each case is an expression."""

from __future__ import annotations

import json
import subprocess

from tests.runtime.js.bridge import PACKAGE, tool

SCRIPT = """
const { checkIds } = await import(new URL("ids.js", process.argv[1]));
const spec = { vocabSize: 8, numTokens: 5, prefixLengths: [1, 5] };
console.log(JSON.stringify(JSON.parse(process.argv[2]).map((text) => {
  try {
    return checkIds(eval(text), spec).join();
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
})));
"""

CASES = {
    "[[1, 2, 3, 4, 7], Uint8Array.of(3)]": "1,2,3,4,7,3",
    "[new Array(5)]": "TokenError: ids[0] has undefined (undefined); expected whole numbers from 0 to 7",
    "[[1], [undefined]]": "TokenError: ids[1] has undefined (undefined)",
    "[BigInt64Array.of(1n)]": "TokenError: ids[0] has 1 (bigint); expected whole numbers from 0 to 7",
    "[['5']]": "TokenError: ids[0] has 5 (string)",
    "[[NaN]]": "TokenError: ids[0] has NaN; expected",
    "[[1.5]]": "TokenError: ids[0] has 1.5; expected",
    "new Array(2)": "TokenError: ids[0] is undefined; expected an Int32Array",
    "[null]": "TokenError: ids[0] is null; expected an Int32Array",
    "[]": "TokenError: the batch is empty; pass at least one image's ids",
    "Int32Array.of(1)": "put a single one in brackets, [ids]",
}


def test_what_ids_are_taken() -> None:
    source = (PACKAGE / "src").as_uri() + "/"
    command = [tool("node", "nodejs"), "--input-type=module", "-e", SCRIPT, source, json.dumps(list(CASES))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for ids, found in zip(CASES, json.loads(done.stdout), strict=True):
        assert CASES[ids] in found, ids
