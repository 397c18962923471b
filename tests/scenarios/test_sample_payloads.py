"""Each payload in docs/SAMPLE_PAYLOADS.md has the answer and the outcomes that the page shows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pytest

from tests import documents

PAGE = documents.ROOT / "docs" / "SAMPLE_PAYLOADS.md"
BLOCK = re.compile("```json\n(.*?)```", re.DOTALL)
UUID = re.compile("[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


@dataclass(frozen=True)
class Sample:
    """A section of the page.

    Attributes:
        name: Its heading.
        payload: The body to post.
        status: The status of the answer.
        answer: The body of the answer.
        recorded: The lines about the recorded alerts.
    """

    name: str
    payload: object
    status: int
    answer: dict
    recorded: list


def read_samples():
    """Return the samples on the page, in their order."""
    samples = []
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        payload, answer = map(json.loads, BLOCK.findall(section))
        status = int(re.search(r"^The answer is (\d+):$", section, re.MULTILINE).group(1))
        recorded = re.findall(r"^\* (.*)$", section, re.MULTILINE)
        samples.append(Sample(section.partition("\n")[0], payload, status, answer, recorded))
    return samples


SAMPLES = read_samples()


@pytest.fixture(scope="module")
def responses(kind, new_stack):
    """Post all samples to a new stack. Return the stack, and the response to each by name."""
    if kind == "live":
        pytest.skip("live: an earlier run may have left incidents open")
    stack = new_stack()
    responses = {}
    for sample in SAMPLES:
        responses[sample.name] = response = stack.post(sample.payload)
        if response.status_code == 202:
            stack.wait_until_recorded(response.json()["request_id"])
    return stack, responses


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_the_answer_is_the_one_on_the_page(responses, sample):
    response = responses[1][sample.name]
    assert response.status_code == sample.status
    assert json.loads(UUID.sub("REQUEST_ID", response.text)) == sample.answer


@pytest.mark.parametrize(
    "sample", [s for s in SAMPLES if s.status == 202], ids=lambda sample: sample.name
)
def test_the_alerts_are_recorded_as_the_page_says(responses, sample):
    stack, all_responses = responses
    # The view adds to the reason what StackStorm did with the alert.
    rows = stack.rows(
        "SELECT alert.* FROM poundcake_alerts alert"
        " JOIN poundcake_api_calls api ON alert.api_call_id = api.id"
        " WHERE api.request_id = :request_id ORDER BY alert.position",
        request_id=all_responses[sample.name].json()["request_id"],
    )
    recorded = [
        f"{row['alert_name'] or '(no name)'}: {row['outcome']}, "
        + UUID.sub("REQUEST_ID", row["reason"])
        for row in rows
    ]
    assert recorded == sample.recorded


def test_a_truncated_group_shows_how_many_alerts_are_missing(responses):
    stack, all_responses = responses
    request_id = all_responses["A truncated group"].json()["request_id"]
    assert stack.get_trail(request_id)["truncated_alerts"] == 3
