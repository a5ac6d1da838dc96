"""One question to the demo model through OpenAI's own client, streamed: chat_openai.py [QUESTION] [BASE_URL] [API_KEY]."""

import sys

from openai import OpenAI

question, url, key = (*sys.argv[1:4], *("What is a release?", "http://127.0.0.1:8000/v1", "none")[len(sys.argv) - 1 :])
stream = OpenAI(base_url=url, api_key=key).chat.completions.create(
    model="demo", messages=[{"role": "user", "content": question}], temperature=0, stream=True
)
for event in stream:
    print(event.choices[0].delta.content or "", end="", flush=True)
print()
