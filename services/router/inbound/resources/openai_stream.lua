-- OpenAI has one path for both ways to answer, and the body says which; the transcoder needs two.
function envoy_on_request(handle)
  local body = handle:streamInfo():dynamicMetadata():get("evenflow.openai")
  -- The transcoder takes "true" for true, so this does too.
  if body ~= nil and (body["stream"] == true or body["stream"] == "true") then
    local path = handle:headers():get(":path"):gsub("^/v1/chat/completions", "%0:stream", 1)
    handle:headers():replace(":path", path)
  end
end
