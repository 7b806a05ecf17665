"""The calls that Lyss makes, made by the official mem0 client (hosted service). Run by ../mem0.sh."""

import os

from mem0 import MemoryClient

url = os.environ["MEM0_URL"]
client = MemoryClient(api_key="m0-key", host=url)

spoken = [{"role": "user", "content": "I live in Oslo"}, {"role": "assistant", "content": "Noted."}]
for session in ("s-1", "s-2"):
    added = client.add(spoken, user_id="u-1", run_id=session, metadata={"source": "test"})
    assert added["status"] == "PENDING" and added["event_id"], added

for filters in ({"user_id": "u-1"}, {"AND": [{"user_id": "u-1"}]}):
    found = client.search("where does the user live", filters=filters, top_k=5)["results"]
    assert [memory["memory"] for memory in found] == ["I live in Oslo"] * 2, found
    assert {memory["user_id"] for memory in found} == {"u-1"}, found
assert client.search("where does the user live", filters={"user_id": "u-2"})["results"] == []

client.delete_all(user_id="u-1", run_id="s-1")
left = client.get_all(filters={"user_id": "u-1"})["results"]
assert [memory["run_id"] for memory in left] == ["s-2"], left

try:
    MemoryClient(api_key="another", host=url)
except ValueError as error:
    assert "Authentication" in str(error), error
else:
    raise AssertionError("a wrong key was accepted")
print("the mock mem0 is as the official client expects it")
