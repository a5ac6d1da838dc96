"""AWS's price list on loopback: GetProducts as botocore sends it (AWS JSON 1.1), signatures checked, filters honoured, pages, throttling.

boto3 is led here by `AWS_ENDPOINT_URL_PRICING`. What the real one refuses is refused with its own error; what the double does not know is
answered with 400 and kept in `unexpected`.

    with PriceList() as prices:
        prices.sell("g6.2xlarge", "eu-west-1", 1.1)
        settings.load() with prices.aws in the environment
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from typing import Any

from tests.doubles.loopback import Handler, Served

SIGNED = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/pricing/aws4_request, SignedHeaders=([^,]+), Signature=([0-9a-f]{64})")
REGIONS = ("us-east-1", "eu-central-1", "ap-south-1")
"""That serve the API."""

MEMBERS = {"ServiceCode", "Filters", "FormatVersion", "NextToken", "MaxResults"}
MATCHES = {"TERM_MATCH", "EQUALS", "CONTAINS", "ANY_OF", "NONE_OF"}

ON_DEMAND = {"operatingSystem": "Linux", "preInstalledSw": "NA", "tenancy": "Shared", "capacitystatus": "Used"}
BESIDE: tuple[dict[str, str], ...] = (
    {"operatingSystem": "Windows"}, {"preInstalledSw": "SQL Std"}, {"tenancy": "Dedicated"}, {"capacitystatus": "UnusedCapacityReservation"},
)  # fmt: skip
"""What is sold of every type besides; here each costs half, so that whoever forgets a filter finds it."""


class PriceList(Served):
    """The double.

    page        items per answer at most, whatever is asked for
    throttled   so many of the next requests are refused as too many
    denied      the account may not read prices
    silent      nothing is answered until it ends
    asked       filters of each request that was answered, by field
    """

    def __init__(self, page: int = 100) -> None:
        super().__init__(_Handler)
        self.page, self.throttled, self.denied, self.silent = page, 0, False, False
        self.key, self.secret = "AKIAPRICEDOUBLE00", "double-secret"
        self.items: list[dict[str, Any]] = []
        self.asked: list[dict[str, str]] = []
        self.lock = threading.Lock()

    @property
    def aws(self) -> dict[str, str]:
        """The variables that lead a client here."""
        return {"AWS_ENDPOINT_URL_PRICING": self.url, "AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}

    def sell(self, name: str, region: str, usd: float) -> None:
        """A type on demand, and what else is sold of it."""
        attributes = {"instanceType": name, "regionCode": region, **ON_DEMAND}
        self.items += [item({**attributes, **other}, usd / 2) for other in BESIDE]
        self.items.append(item(attributes, usd))

    def found(self, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        return [one for one in self.items if all(one["product"]["attributes"].get(key) == value for key, value in filters.items())]


def item(attributes: Mapping[str, str], usd: float) -> dict[str, Any]:
    """One product as the list writes it: documents within documents, numbers as texts, a reservation beside the price per hour."""
    sku = f"{abs(hash(tuple(sorted(attributes.items())))):016X}"[:16]
    hourly = {"unit": "Hrs", "beginRange": "0", "endRange": "Inf", "rateCode": f"{sku}.JRTCKXETXF.6YS6EN2CT7", "appliesTo": [], "pricePerUnit": {"USD": f"{usd:.10f}"}}
    upfront = {"unit": "Quantity", "rateCode": f"{sku}.R.U", "appliesTo": [], "pricePerUnit": {"USD": "1"}}
    reserved = {"priceDimensions": {f"{sku}.R.H": {**hourly, "pricePerUnit": {"USD": "0.0000000001"}}, f"{sku}.R.U": upfront}, "sku": sku}
    return {
        "product": {"productFamily": "Compute Instance", "attributes": dict(attributes), "sku": sku}, "serviceCode": "AmazonEC2", "version": "20261121000000",
        "terms": {"OnDemand": {f"{sku}.JRTCKXETXF": {"priceDimensions": {f"{sku}.JRTCKXETXF.6YS6EN2CT7": hourly}, "sku": sku}}, "Reserved": {f"{sku}.R": reserved}},
    }  # fmt: skip


class Refusal(Exception):
    """An error as this service writes it."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message


class _Handler(Handler[PriceList]):
    def do_POST(self) -> None:
        double, body = self.double, self.rfile.read(int(self.headers["Content-Length"]))
        if double.silent:
            double.closing.wait(60)
            self.close_connection = True
            return
        try:
            with double.lock:
                self._send(200, _answer(double, self.headers, self.path, body))
        except Refusal as no:
            self._send(400, {"__type": no.code, "message": no.message})

    def _send(self, status: int, document: Mapping[str, Any]) -> None:
        self.send(status, json.dumps(document).encode(), {"Content-Type": "application/x-amz-json-1.1"})


def _answer(double: PriceList, headers: Mapping[str, str], path: str, body: bytes) -> dict[str, Any]:
    if headers.get("X-Amz-Target") != "AWSPriceListService.GetProducts" or headers.get("Content-Type") != "application/x-amz-json-1.1":
        double.unexpected.append(f"{headers.get('X-Amz-Target')} {headers.get('Content-Type')}")
        raise Refusal("UnknownOperationException", "")
    _insist_on_signature(double, headers, path, body)
    if double.throttled > 0:
        double.throttled -= 1
        raise Refusal("ThrottlingException", "Rate exceeded")
    if double.denied:
        raise Refusal("AccessDeniedException", "User: arn:aws:iam::123456789012:user/nobody is not authorized to perform: pricing:GetProducts")
    asked = json.loads(body)
    filters, first, size = _read(double, asked)
    double.asked.append(filters)
    found = double.found(filters)
    last = first + min(size, double.page)
    more = {"NextToken": f"page:{last}"} if last < len(found) else {}
    return {"FormatVersion": "aws_v1", "PriceList": [json.dumps(one) for one in found[first:last]], **more}


def _read(double: PriceList, asked: Mapping[str, Any]) -> tuple[dict[str, str], int, int]:
    """Filters, where the page begins, and how long it may be."""
    if unknown := asked.keys() - MEMBERS:
        double.unexpected.append(f"members {sorted(unknown)}")
        raise Refusal("SerializationException", f"unknown members: {sorted(unknown)}")
    if asked.get("ServiceCode") != "AmazonEC2":
        raise Refusal("NotFoundException", f"The service code {asked.get('ServiceCode')} is not known here")
    size = asked.get("MaxResults", 100)
    if not 1 <= size <= 100:
        raise Refusal("InvalidParameterException", "MaxResults must be between 1 and 100")
    for row in asked.get("Filters", []):
        if row.keys() != {"Type", "Field", "Value"} or row["Type"] not in MATCHES or not row["Value"]:
            raise Refusal("InvalidParameterException", f"Input Parameters are invalid: {row}")
        if row["Type"] != "TERM_MATCH":
            double.unexpected.append(f"filter {row['Type']}")
            raise Refusal("InvalidParameterException", f"the double has no {row['Type']}")
    token = re.fullmatch(r"page:(\d+)", asked.get("NextToken", "page:0"))
    if token is None:
        raise Refusal("InvalidNextTokenException", "The pagination token is invalid. Try again without a pagination token.")
    return {row["Field"]: row["Value"] for row in asked.get("Filters", [])}, int(token[1]), size


def _insist_on_signature(double: PriceList, headers: Mapping[str, str], path: str, body: bytes) -> None:
    """As AWS does: computed once more with the secret that belongs to the key."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    found = SIGNED.fullmatch(headers.get("Authorization", ""))
    if found is None:
        raise Refusal("MissingAuthenticationTokenException", "Missing Authentication Token")
    key, _, region, names, signature = found.groups()
    if key != double.key:
        raise Refusal("UnrecognizedClientException", "The security token included in the request is invalid.")
    if region not in REGIONS:
        raise Refusal("InvalidSignatureException", f"Credential should be scoped to a valid region, not {region}")
    signed = {name: headers[name] for name in names.split(";")}
    request = AWSRequest("POST", f"http://{headers['Host']}{path}", headers=signed, data=body)
    request.context["timestamp"] = headers["X-Amz-Date"]
    auth = SigV4Auth(Credentials(key, double.secret), "pricing", region)
    if auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request) != signature:
        raise Refusal("InvalidSignatureException", "The request signature we calculated does not match the signature you provided.")
