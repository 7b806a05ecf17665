"""The mock provider's side of a test: what reached it, and what it shall do."""

import json
import time

import httpx


class Upstream:
    def __init__(self, url):
        self._http = httpx.Client(base_url=url, timeout=10, trust_env=False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._http.close()

    def control(self, **message):
        self._http.post("/__control", json=message).raise_for_status()

    def requests(self, marker):
        """Requests whose body contains the marker, oldest first."""
        return self._http.get("/__requests", params={"contains": marker}).raise_for_status().json()

    def bodies(self, marker):
        return [json.loads(request["body"]) for request in self.requests(marker)]

    def entry(self, seq):
        rows = self._http.get("/__ledger").raise_for_status().json()
        return next(row for row in rows if row["seq"] == seq)

    def outcome_within(self, marker, outcome, seconds):
        """Waits until the first marked request ended this way; returns its ledger entry."""
        deadline = time.monotonic() + seconds
        while True:
            requests = self.requests(marker)
            entry = self.entry(requests[0]["seq"]) if requests else None
            if entry and entry["outcome"] == outcome:
                return entry
            assert time.monotonic() < deadline, f"after {seconds} s the request is {entry}"
            time.sleep(0.02)
