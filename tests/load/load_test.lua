-- wrk script: POST one chat completion after the other and count what came back.
--
--   wrk -t2 -c32 -d5s --script=tests/load/load_test.lua http://localhost:8000/api/v1/chat/completions
--
-- Environment: LYSS_MODEL (default simulated/echo), LYSS_API_KEY (sent as a bearer token when set).

local model = os.getenv("LYSS_MODEL") or "simulated/echo"
local key = os.getenv("LYSS_API_KEY")

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
if key and key ~= "" then
  wrk.headers["Authorization"] = "Bearer " .. key
end
wrk.body = string.format(
  '{"model": "%s", "user_id": "load_test", "messages": [{"role": "user", "content": "Hello, world!"}]}',
  model
)

-- wrk runs each thread in a Lua state of its own; `done` runs in another and asks them all.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init()
  answers, not_200, statuses, first_error = 0, 0, "", ""
  by_status = {}
end

function response(status, headers, body)
  answers = answers + 1
  by_status[status] = (by_status[status] or 0) + 1
  if status ~= 200 then
    not_200 = not_200 + 1
    if first_error == "" then
      first_error = body:sub(1, 300)
    end
    -- Only text crosses to `done`.
    statuses = ""
    for code, count in pairs(by_status) do
      statuses = statuses .. code .. "=" .. count .. " "
    end
  end
end

function done(summary, latency, requests)
  local answered, failed, counts, example = 0, 0, {}, ""
  for _, thread in ipairs(threads) do
    answered = answered + thread:get("answers")
    failed = failed + thread:get("not_200")
    for code, count in thread:get("statuses"):gmatch("(%d+)=(%d+)") do
      counts[code] = (counts[code] or 0) + tonumber(count)
    end
    if example == "" then
      example = thread:get("first_error")
    end
  end
  local errors = summary.errors
  print(string.format("answers: %d, of these not 200: %d", answered, failed))
  print(string.format(
    "socket errors: connect %d, read %d, write %d, timeout %d",
    errors.connect, errors.read, errors.write, errors.timeout
  ))
  for code, count in pairs(counts) do
    if code ~= "200" then
      print(string.format("  status %s: %d", code, count))
    end
  end
  if example ~= "" then
    print("  first error: " .. example)
  end
  print(string.format(
    "latency ms: p50 %.2f  p90 %.2f  p99 %.2f  max %.2f",
    latency:percentile(50) / 1000, latency:percentile(90) / 1000,
    latency:percentile(99) / 1000, latency.max / 1000
  ))
end
