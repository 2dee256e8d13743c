-- wrk -s wrk.lua URL -- METHOD COOKIES_FILE: each request sends the next cookie from the file.
local cookies = {}
local current = 0
local method, path

function init(arguments)
  method = arguments[1]
  for cookie in io.lines(arguments[2]) do
    cookies[#cookies + 1] = wrk.format(method, nil, {
      ["Cookie"] = cookie,
      ["Content-Type"] = "application/x-www-form-urlencoded",
    })
  end
end

function request()
  current = current % #cookies + 1
  return cookies[current]
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    "RESULT %d %f %f %f %d",
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
