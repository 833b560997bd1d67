-- Gives OpenAI's callers every failure as OpenAI's error object, whoever it comes from: Check, a
-- runtime, the transcoder, Envoy itself. Who fails says why in headers: x-evenflow-reason,
-- x-evenflow-field, and grpc-message or a plain body. gRPC's own headers stay inside.

local TYPES = {
  ["401"] = "authentication_error",
  ["403"] = "permission_error",
  ["429"] = "rate_limit_error",
}

local function type_of(status)
  return TYPES[status] or (status >= "500" and "server_error" or "invalid_request_error")
end

-- The transcoder quotes what it could not read, and JSON must be UTF-8.
local SEQUENCES = {
  "^[\194-\223][\128-\191]",
  "^\224[\160-\191][\128-\191]",
  "^[\225-\236\238\239][\128-\191][\128-\191]",
  "^\237[\128-\159][\128-\191]",
  "^\240[\144-\191][\128-\191][\128-\191]",
  "^[\241-\243][\128-\191][\128-\191][\128-\191]",
  "^\244[\128-\143][\128-\191][\128-\191]",
}

local function sequence_at(text, at)
  for _, pattern in ipairs(SEQUENCES) do
    local found = text:match(pattern, at)
    if found ~= nil then
      return found
    end
  end
  return nil
end

local function utf8_only(text)
  if not text:find("[\128-\255]") then
    return text
  end
  local parts, at = {}, 1
  while at <= #text do
    local plain = text:match("^[%z\1-\127]+", at)
    local good = plain or sequence_at(text, at)
    table.insert(parts, good or "\239\191\189")
    at = at + (good and #good or 1)
  end
  return table.concat(parts)
end

local function quoted(text)
  return '"' .. utf8_only(text):gsub('[%c"\\\127]', function(c)
    return string.format("\\u%04x", c:byte())
  end) .. '"'
end

local function percent_decoded(text)
  return (text:gsub("%%(%x%x)", function(digits)
    return string.char(tonumber(digits, 16))
  end))
end

-- The transcoder begins its complaints with the place: "completion.max_tokens: invalid value ..."
local function place_in(text)
  local place, rest = text:match("^completion%.([%w_.%[%]]+): (.*)$")
  if place ~= nil then
    return place, rest
  end
  return nil, (text:gsub("^completion: ", "", 1):gsub("^: ", "", 1))
end

local function error_object(headers, status, message)
  local place, text = place_in(message)
  local param = headers:get("x-evenflow-field") or place
  local reason = headers:get("x-evenflow-reason")
  return table.concat({
    '{"error":{"message":', quoted(text),
    ',"type":', quoted(type_of(status)),
    ',"param":', param and quoted(param) or "null",
    ',"code":', reason and quoted(reason) or "null",
    "}}",
  })
end

function envoy_on_request(handle)
  if handle:headers():get(":method") == "HEAD" then
    handle:streamInfo():dynamicMetadata():set("evenflow.errors", "head", true)
  end
end

-- An answer to HEAD has no body, whatever went wrong.
local function wants_a_body(handle)
  return handle:streamInfo():dynamicMetadata():get("evenflow.errors") == nil
end

-- A header object dies when body() waits, so it is read before and asked for again after.
function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get(":status")
  if headers:get("content-type") == "application/grpc" and status == "200" then
    return -- a gRPC caller that asked for a method nobody has
  end
  local message = headers:get("grpc-message")
  for _, name in ipairs({"grpc-message", "grpc-status-details-bin", "grpc-accept-encoding"}) do
    headers:remove(name)
  end
  if status < "400" then
    headers:remove("grpc-status") -- a failure keeps it: the access log tells the router
    return
  end
  if not wants_a_body(handle) then
    return
  end
  local body = handle:body(true)
  if body:length() > 0 and body:getBytes(0, body:length()):find('^{"error": ?{"message"') then
    return -- Envoy's own, made an error object by local_replies.py
  end
  if message ~= nil and message ~= "" then
    message = percent_decoded(message)
  else
    message = body:length() > 0 and body:getBytes(0, body:length()) or "can't be served now"
  end
  body:setBytes(error_object(handle:headers(), status, message))
  handle:headers():replace("content-type", "application/json")
  handle:headers():replace("content-length", tostring(body:length()))
end
