-- OpenAI has one path for both ways to answer, and the body says which; the transcoder needs two.
-- OpenAI ends a stream that went well with "data: [DONE]"; gRPC ends it with trailers. A runtime
-- marks the end with an empty message, which the transcoder prints like this:
local END = 'data: {"id":"","object":"","created":0,"model":"","choices":[],"system_fingerprint":""}\n\n'
local DONE = "data: [DONE]\n\n"

function envoy_on_request(handle)
  local body = handle:streamInfo():dynamicMetadata():get("evenflow.openai")
  -- The transcoder takes "true" for true, so this does too.
  if body ~= nil and (body["stream"] == true or body["stream"] == "true") then
    local path = handle:headers():get(":path"):gsub("^/v1/chat/completions", "%0:stream", 1)
    handle:headers():replace(":path", path)
  end
end

function envoy_on_response(handle)
  if handle:headers():get("content-type") ~= "text/event-stream" then
    return
  end
  for chunk in handle:bodyChunks() do
    local start = chunk:length() - #END
    if start >= 0 and chunk:getBytes(start, #END) == END then
      chunk:setBytes(chunk:getBytes(0, start) .. DONE)
    end
  end
end
