"""Live prices of AWS. The only module here that reaches a network, and only when it is called.

The price list is served in three regions and knows the prices of all. Answers are documents within documents; `usd` reads one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from infra.errors import Transient
from infra.planner.catalogue import Prices

SERVED = "us-east-1"
"""One of the regions with the pricing API (the others: eu-central-1, ap-south-1)."""

TERMS = {"operatingSystem": "Linux", "preInstalledSw": "NA", "tenancy": "Shared", "capacitystatus": "Used"}


def live(region: str, types: Iterable[str], today: date, client: Any = None) -> Prices:
    """On-demand prices of these types now. Raises Transient when AWS can not be asked; then the snapshot still stands.

    A type that is not sold in the region is not in the answer.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    found: dict[str, float] = {}
    try:
        client = client or boto3.client("pricing", region_name=SERVED)
        for name in types:
            filters = [{"Type": "TERM_MATCH", "Field": key, "Value": value} for key, value in {**TERMS, "regionCode": region, "instanceType": name}.items()]
            answer = client.get_products(ServiceCode="AmazonEC2", Filters=filters, MaxResults=10)
            prices = [price for item in answer.get("PriceList", []) if (price := usd(json.loads(item))) is not None]
            found |= {name: min(prices)} if prices else {}
    except (BotoCoreError, ClientError, ValueError) as error:
        raise Transient(
            f"the prices of {region} could not be read", why=f"{type(error).__name__}: {error}",
            next="nothing: the prices of the snapshot are used, and their age is shown",
        ) from error  # fmt: skip
    return Prices(region, today, found, source="live")


def usd(item: Mapping[str, Any]) -> float | None:
    """USD per hour on demand, of one item of a price list. None: it has none."""
    terms = item.get("terms", {}).get("OnDemand", {})
    dimensions = (one for term in terms.values() for one in term.get("priceDimensions", {}).values() if one.get("unit") == "Hrs")
    prices = [float(one["pricePerUnit"]["USD"]) for one in dimensions if "USD" in one.get("pricePerUnit", {})]
    return min((price for price in prices if price > 0), default=None)
