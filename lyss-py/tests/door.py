"""The package as a door for the shared cases: makes the calls that it is told on standard input, as a user would, and says
what came of them. The protocol is described in `tests/doors.md` of the repository.

    door.py sync|async
"""

import asyncio
import inspect
import json
import sys

import lyss

RESOURCES = {
    "chat": lambda gw: gw.chat.completions.create,
    "stream": lambda gw: gw.chat.completions.create,
    "embed": lambda gw: gw.embeddings.create,
    "tokens": lambda gw: gw.tokens.count,
    "create_session": lambda gw: gw.sessions.create,
    "usage": lambda gw: gw.usage,
    "requests": lambda gw: gw.requests.list,
    "models": lambda gw: gw.models.list,
    "sessions": lambda gw: gw.sessions.list,
    "model": lambda gw: gw.models.retrieve,
    "session": lambda gw: gw.sessions.retrieve,
    "messages": lambda gw: gw.sessions.messages,
    "delete_session": lambda gw: gw.sessions.delete,
    "request": lambda gw: gw.requests.retrieve,
}
BY_ID = {"model", "session", "messages", "delete_session", "request"}
PATHS = {
    "chat": "/v1/chat/completions",
    "stream": "/v1/chat/completions",
    "embed": "/v1/embeddings",
    "tokens": "/v1/tokens",
    "create_session": "/v1/sessions",
}


async def settled(value):
    return await value if inspect.isawaitable(value) else value


class Door:
    def __init__(self, flavor):
        self.kind = lyss.AsyncGateway if flavor == "async" else lyss.Gateway
        self.gateway = None
        self.held = {}

    async def answer(self, line):
        if "open" in line:
            opening = line["open"]
            if "config" in opening:
                self.gateway = self.kind(config=opening["config"])
            else:
                self.gateway = self.kind.connect(**opening["connect"])
            return {"ok": True}
        if "close" in line:
            for stream in self.held.values():
                await settled(stream.close())
            self.held.clear()
            await settled(self.gateway.close(grace=1))
            return {"ok": True}
        try:
            return await self.called(line["call"])
        except lyss.LyssError as error:
            told = {name: getattr(error, name) for name in ("code", "type", "param", "message")}
            outcome = {
                "status": error.status_code,
                "error": told,
                "should_retry": error.should_retry,
            }
            return with_meta(outcome, error.meta, error.request_id)

    async def called(self, call):
        name = call["call"]
        if name == "rest":
            return await self.read(self.held.pop(call["id"]), call)
        if name == "drop":
            await settled(self.held.pop(call["id"]).close())
            return {"status": 200}
        options = {"api_key": call["key"] or ""}
        if call["user_id"] is not None:
            options["user_id"] = call["user_id"]
        gateway = self.gateway.with_options(**options)
        body = call["body"] if isinstance(call["body"], dict) else {}
        if name == "admin":
            method, arguments = getattr(gateway.admin, call["id"]).list, {}
        else:
            method = RESOURCES[name](gateway)
            arguments = dict(body) if name not in BY_ID else {}
        args = (call["id"],) if name in BY_ID else ()
        if call["idempotency_key"] is not None:
            arguments["idempotency_key"] = call["idempotency_key"]
        if call["raw_body"] is not None or not accepted(method, args, arguments):
            return await self.raw(gateway, call)
        result = await settled(method(*args, **arguments))
        if isinstance(result, (lyss.Stream, lyss.AsyncStream)):
            return await self.read(result, call)
        if result is None:
            return {"status": 204}
        if isinstance(result, list):
            return {"status": 200, "body": {"data": [entry.to_dict() for entry in result]}}
        return with_meta({"status": 200, "body": result.to_dict()}, result.meta, result.request_id)

    async def raw(self, gateway, call):
        body = call["raw_body"] if call["raw_body"] is not None else call["body"]
        headers = {}
        if call["idempotency_key"] is not None:
            headers["idempotency-key"] = call["idempotency_key"]
        response = await settled(
            gateway.request("POST", PATHS[call["call"]], body=body, headers=headers)
        )
        response.raise_for_status()
        return with_meta(
            {"status": response.status_code, "body": response.json()},
            response.meta,
            response.request_id,
        )

    async def read(self, stream, call):
        events, opened, done = [], True, False
        iterator = aiter(stream) if isinstance(stream, lyss.AsyncStream) else iter(stream)
        while call["read"] is None or len(events) < call["read"]:
            try:
                if isinstance(stream, lyss.AsyncStream):
                    chunk = await anext(iterator)
                else:
                    chunk = next(iterator)
            except (StopIteration, StopAsyncIteration):
                opened, done = False, True
                break
            except lyss.LyssError as error:
                told = {name: getattr(error, name) for name in ("code", "type", "param", "message")}
                events.append({"error": told})
                opened = False
                break
            events.append(chunk.to_dict())
        outcome = {"status": 200, "events": events, "done": done, "open": opened}
        if opened and call["hold"] is not None:
            self.held[call["hold"]] = stream
        elif opened:
            await settled(stream.close())
        return with_meta(outcome, stream.meta, stream.request_id)


def accepted(method, args, arguments):
    """Whether Python would let the method be called like this; what it would not is left to the gateway to refuse."""
    try:
        inspect.signature(method).bind(*args, **arguments)
    except TypeError:
        return False
    return True


def with_meta(outcome, meta, request_id):
    outcome.update(
        request_id=request_id,
        provider=meta.provider,
        upstream_model=meta.upstream_model,
        session_id=meta.session_id,
        context=meta.context,
        attempts=meta.attempts,
    )
    if meta.replayed:
        outcome["replayed"] = True
    return outcome


async def main(flavor):
    door = Door(flavor)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await door.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
