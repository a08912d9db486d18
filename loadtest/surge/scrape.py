"""What a service says of itself in /metrics."""

from collections import Counter
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from loadtest.errors import NoRun
from loadtest.generator.client import Client

RESPONSE_TIME, REQUESTS = "ranker_response_time_seconds", "ranker_requests_total"


async def scrape(client: Client) -> str:
    """Raises NoRun."""
    answer = await client.get("/metrics")
    if answer.status != 200:
        raise NoRun(f"GET /metrics is answered {answer.status}")
    return answer.content.decode()


def quantiles_s(text: str, labels: Mapping[str, str]) -> dict[float, float]:
    """Response times by share; empty where the scrape has none with these labels."""
    return {
        float(sample.labels["quantile"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == RESPONSE_TIME and "quantile" in sample.labels and labels.items() <= sample.labels.items()
    }


def requests(text: str, route: str = "/rank") -> Counter[str]:
    """How many requests of a route ended how, since the service's start."""
    counts: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == REQUESTS and sample.labels["route"] == route:
                counts[sample.labels["outcome"]] += int(sample.value)
    return counts
