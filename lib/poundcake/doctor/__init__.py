"""Check everything that an installation needs, and say how to put right what is wrong.

finding          the result of one check
files            who may read the files of this host
configuration    the configuration, and how the endpoint differs from it
endpoint_state   what the endpoint reports about itself and RabbitMQ
tracking_tables  the tracking database
clocks           how far the clocks of the servers differ from this host's
pack_content     what StackStorm has registered of the pack
permissions      the roles of the users as whom the pack uses StackStorm's API
st2_settings     StackStorm's own settings, its waiting work and its open inquiries
entries          the remediations and their approvers
routing          Alertmanager's configuration
rules            Prometheus's alerting rules
examination      run all of them
text             format the findings

The functions named `check_` are pure: they take what was read, and return findings.
"""

from __future__ import annotations

from poundcake.doctor.examination import Examination
from poundcake.doctor.finding import Finding, Status, as_json, worst_status
from poundcake.doctor.text import as_text

__all__ = ["Examination", "Finding", "Status", "as_json", "as_text", "worst_status"]
