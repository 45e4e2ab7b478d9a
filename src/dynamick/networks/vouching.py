"""Functions that the user named on this machine: a network that one made opens here again without naming it.

No file can say which code is run, for files are passed round. But what `dynamick retrofit --model package.module:function`
wrote should open in the next command. So that command signs what it writes, with a key in the user's own folder. The
signature covers the function's name, where its code lies on this machine, and that code. Whoever changes one of these, or
has no key, gets the sentence that asks for the function.
"""

import hashlib
import hmac
import json
import os
import secrets
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from dynamick.files import write_atomically

KEY_BYTES = 32


def signature(name: str) -> str | None:
    """The signature of a `package.module:function` as it is here and now; None if its code or the key cannot be had."""
    code, key = _code_of(name), _key(make=True)
    return None if code is None or key is None else _sign(key, name, code)


def is_vouched(name: str, signed: object) -> bool:
    """Whether this user signed this function on this machine, and its code is still the same in the same place."""
    if not isinstance(signed, str):
        return False
    code, key = _code_of(name), _key(make=False)
    return code is not None and key is not None and hmac.compare_digest(signed.encode(), _sign(key, name, code).encode())


def _sign(key: bytes, name: str, code: list[tuple[str, str]]) -> str:
    return hmac.new(key, json.dumps([name, code]).encode(), "sha256").hexdigest()


def _code_of(name: str) -> list[tuple[str, str]] | None:
    """The files that importing a function's module runs first, and their checksums; found without importing any."""
    module = name.partition(":")[0]
    top, *rest = module.split(".")
    # A user's own module lies where the command is given, as in `networks.sources.function`.
    spec = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    if spec is None or spec.origin is None:
        return None
    files, folder = [Path(spec.origin)], Path(spec.origin).parent
    for part in rest:
        found = [each for each in (folder / part / "__init__.py", folder / f"{part}.py") if each.is_file()]
        if not found:
            return None
        files.append(found[0])
        folder = found[0].parent
    loaded = getattr(sys.modules.get(module), "__file__", None)
    try:
        if loaded is not None and not Path(loaded).samefile(files[-1]):
            return None
        return [(str(file.resolve()), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    except OSError:
        return None


def _key(make: bool) -> bytes | None:
    """This user's key; None where there is none and none can be made."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        file = Path(state) / "dynamick" / "key"
        if make and not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(file, secrets.token_bytes(KEY_BYTES))
            file.chmod(0o600)
        key = file.read_bytes()
    except (OSError, RuntimeError):
        return None
    return key if len(key) == KEY_BYTES else None
