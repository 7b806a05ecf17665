"""A conversation crosses doors: begun here, in Python ...

    export LYSS_DATABASE=postgres://lyss@localhost/lyss LYSS_REDIS=localhost:6379
    python examples/doors/begin.py          # prints the session's id
    node examples/doors/continue.js ID     # after npm install in examples/
    lyss serve --config examples/doors/gateway.yaml &
    examples/doors/read.sh ID
"""

from pathlib import Path

import lyss

with lyss.Gateway(Path(__file__).with_name("gateway.yaml")) as gw:
    answer = gw.chat.completions.create(
        model="assistant",
        messages=[{"role": "user", "content": "Begun in Python."}],
        session_id="new",
        user_id="ada",
    )
    print(answer.meta.session_id)
