"""AWS's STS on loopback, as far as it tells who somebody is: `GetCallerIdentity`, which is a POST that changes nothing. Strict about the signature's key and the action.

    with Sts() as sts:
        sts.aws                      the variables that lead a client here
        sts.refusal = "ExpiredToken"
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs

from tests.doubles.loopback import Handler, Served

KEY, SECRET = "AKIADOUBLEDOUBLE", "double-" + "secret"
ARN = "arn:aws:iam::123456789012:user/ann"


class Sts(Served):
    """The double. `refusal`: the code that it refuses with."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.refusal = ""

    @property
    def aws(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL_STS": self.url, "AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}


class _Handler(Handler[Sts]):
    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        signed = re.match(r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/[^/]+/sts/aws4_request", self.headers.get("Authorization", ""))
        if asked.get("Action") != ["GetCallerIdentity"]:
            self.double.unexpected.append(str(asked))
            return self._refuse(400, "InvalidAction")
        if self.double.refusal or not signed or signed[1] != KEY:
            return self._refuse(403, self.double.refusal or "InvalidClientTokenId")
        found = f"<GetCallerIdentityResult><Arn>{ARN}</Arn><UserId>AIDA</UserId><Account>123456789012</Account></GetCallerIdentityResult>"
        return self._send(200, f'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">{found}</GetCallerIdentityResponse>')

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, f'<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>{code}</Code><Message>{code}</Message></Error></ErrorResponse>')

    def _send(self, status: int, body: str) -> None:
        self.send(status, body.encode(), {"Content-Type": "text/xml"})
