"""List the defences that concern credentials, input limits, inert text, changes and secrets."""

from __future__ import annotations

from tests.defences.defence import Defence, test
from tests.defences.mutation import Becomes, Edit, Returns

RECEIVER = "poundcake.endpoint.app:Receiver."
AUTHENTICATION = "poundcake.endpoint.authentication:Authentication."
SIGNATURES = "poundcake.endpoint.body_signatures:"
BROWSER_GUARD = "poundcake.endpoint.browser_guard:"
WEBHOOK = "poundcake.endpoint.webhook:"
HEAD = "poundcake.endpoint.request_head:"
CONNECTION = "poundcake.endpoint.http_connection:"
CONNECTIONS = "poundcake.endpoint.open_connections:OpenConnections."
SOCKET = "poundcake.endpoint.timed_socket:TimedSocket."
SERVER = "poundcake.endpoint.http_server:Server."
TLS = "poundcake.endpoint.tls:"
CLIENT = "poundcake.endpoint_client:"
CONFIG = "poundcake.config:"
RECONCILE = "poundcake.trail.reconcile:"
RECONCILE_TESTS = "tests/lib/trail/test_reconcile.py::"
ALERTMANAGER = "poundcake.alertmanager:"
LOOKALIKES = "poundcake.inert:_LOOKALIKES"
TRIGGERS = "poundcake.endpoint.triggers:"
ACTION = "pack_action:PackAction.run"
HOSTS = "poundcake.hosts:canonical_host"
CHECKS = "poundcake.remediation.checks:"
SAFETY = "poundcake.remediation.safety:"
BEGIN = "poundcake.remediation.begin:"
FINDINGS = "poundcake.remediation.findings:"
PAUSE = "poundcake.trail.pause:"
SETTLE = "poundcake.trail.settle_changes:"
RETRY = "poundcake.trail.retry_refused:"
CLAIMS = "poundcake.trail.claims:"
DESCRIBE = "poundcake.trail.database.transactions:describe"
PUBLIC_URL = "poundcake.trail.database.transactions:public_url"
ADMISSION = "poundcake.trail.admission:"
LIMITS = "poundcake.trail.admission_limits:AdmissionLimits."

APP_TESTS = "tests/lib/endpoint/test_app.py::"
AUTHENTICATION_TESTS = "tests/lib/endpoint/test_authentication.py::"
BROWSER_TESTS = "tests/lib/endpoint/test_browser_guard.py::"
WEBHOOK_TESTS = "tests/lib/endpoint/test_webhook.py::"
TRAIL_TESTS = "tests/lib/endpoint/test_trail_routes.py::"
FRAMING_TESTS = "tests/lib/endpoint/test_framing.py::"
SERVER_TESTS = "tests/lib/endpoint/test_http_server.py::"
CLIENT_TESTS = "tests/lib/test_endpoint_client.py::"
TLS_TESTS = "tests/lib/endpoint/test_tls.py::"
CLIENT_CERTIFICATE_TESTS = TLS_TESTS + "TestClientCertificates::"
SERVICE_TESTS = "tests/lib/endpoint/test_service.py::"
RECONFIGURATION_TESTS = "tests/lib/endpoint/test_reconfiguration.py::"
EMITTER_TESTS = "tests/lib/endpoint/test_emitter.py::"
CONFIG_TESTS = "tests/lib/test_config.py::"
ALERTMANAGER_TESTS = "tests/lib/test_alertmanager.py::"
INERT_TESTS = "tests/lib/test_inert.py::"
PARAMETER_TESTS = "tests/lib/test_inert_in_parameters.py::"
HOSTS_TESTS = "tests/lib/test_hosts.py::"
CHECKS_TESTS = "tests/lib/remediation/test_checks.py::"
REPORT_TESTS = "tests/lib/remediation/test_build_report.py::"
SAFETY_TESTS = "tests/lib/remediation/test_safety.py::"
CONTROLS = SAFETY_TESTS + "test_each_control_refuses_with_its_value_and_a_remedy"
LIMITS_TESTS = "tests/lib/trail/test_limits.py::"
BEGIN_TESTS = "tests/lib/remediation/test_begin.py::"
HOST_DOWN_TESTS = LIMITS_TESTS + "TestHostDownActions::"
FINDING_TESTS = "tests/lib/remediation/test_findings.py::"
SETTLE_TESTS = "tests/lib/trail/test_settle_changes.py::"
RETRY_TESTS = "tests/lib/trail/test_retry_refused.py::"
PURGE_TESTS = "tests/lib/trail/test_purge.py::"
ACTION_TESTS = "tests/test_actions.py::"
DATABASE_TESTS = "tests/lib/trail/test_database.py::"
FILE_TESTS = "tests/lib/trail/test_shared_files.py::"
ADMISSION_TESTS = "tests/lib/trail/test_admission.py::"
RECORD_TESTS = "tests/lib/trail/test_record.py::"

NO_CREDENTIAL = test(
    AUTHENTICATION_TESTS + "TestTokens::test_other_credentials_are_refused_and_nothing_is_stored",
)
CONSTANT_TIME = test(
    AUTHENTICATION_TESTS + "test_a_credential_is_compared_with_every_known_credential"
)
UNSIGNED = test(
    AUTHENTICATION_TESTS
    + "TestSignatures::test_other_signatures_are_refused_and_nothing_is_stored",
    "threads",
)
FAILURES = test(
    AUTHENTICATION_TESTS + "test_every_failure_is_counted_and_one_is_logged_without_the_credential"
)
EXPIRED_CERTIFICATE = test(
    CLIENT_CERTIFICATE_TESTS
    + "test_a_certificate_that_expires_ends_its_connection_and_its_sessions"
)
FRAMING = test(FRAMING_TESTS + "test_each_case_is_answered_as_expected", "threads")
REFUSED_BODY = test(
    FRAMING_TESTS + "test_the_remainder_of_a_refused_body_is_not_a_request", "threads"
)
MEDIA_TYPES = test(
    WEBHOOK_TESTS + "TestRefused::test_the_refusal_of_a_content_type_suggests_an_accepted_one",
    "threads",
)
INERT_TEXT = test(INERT_TESTS + "test_no_string_keeps_a_special_character")
INERT_TRIGGERS = test(EMITTER_TESTS + "TestTriggers::test_every_string_is_inert_and_never_null")
REFUSALS = test(SAFETY_TESTS + "test_a_refusal_states_its_reason_and_a_remedy")
HOSTILE_HOST = test(HOSTS_TESTS + "test_a_hostile_instance_yields_no_host")
PASSWORD = test(DATABASE_TESTS + "TestRefused::test_the_password_is_masked_anywhere_in_an_error")
PASSWORD_FORMS = test(
    DATABASE_TESTS + "TestRefused::test_a_password_is_masked_in_every_form_of_the_url"
)

ACCESS = [
    Defence(
        "every route except the liveness check requires a credential",
        Returns(AUTHENTICATION + "authenticate", "request"),
        NO_CREDENTIAL,
    ),
    Defence(
        "the metrics require a credential",
        Edit(
            RECEIVER + "_answer", "_1 == LIVE_PATH and _2", "_1 in (LIVE_PATH, '/metrics') and _2"
        ),
        NO_CREDENTIAL,
    ),
    Defence(
        "a client without a credential does not learn which paths and methods exist",
        Edit(RECEIVER + "_answer", "_1 == LIVE_PATH and _2", "_1 == LIVE_PATH"),
        test(
            AUTHENTICATION_TESTS
            + "TestTokens::test_credentials_are_checked_before_the_path_and_the_method",
            "threads",
        ),
    ),
    Defence(
        "credentials are compared in constant time",
        Edit(
            AUTHENTICATION + "_valid_credentials",
            "hmac.compare_digest",
            "__import__('operator').eq",
        ),
        CONSTANT_TIME,
    ),
    Defence(
        "every credential is compared, even after a match",
        Edit(
            AUTHENTICATION + "_valid_credentials",
            "hmac.compare_digest(_1, _2) and _3",
            "_3 and hmac.compare_digest(_1, _2)",
        ),
        CONSTANT_TIME,
    ),
    Defence(
        "a password is not accepted as a bearer token",
        Edit(
            AUTHENTICATION + "_valid_credentials",
            "hmac.compare_digest(_1, _2) and _",
            "hmac.compare_digest(_1, _2)",
        ),
        test(AUTHENTICATION_TESTS + "TestBasicAuthentication::test_other_credentials_are_refused"),
    ),
    Defence(
        "a token is accepted as a password for pages only",
        Edit(AUTHENTICATION + "_valid_credentials", "is_page_request(_)", "True"),
        test(
            AUTHENTICATION_TESTS + "TestBoard::test_the_api_accepts_no_token_as_a_password",
            "threads",
        ),
    ),
    Defence(
        "the header of a reverse proxy is believed only from its addresses",
        Returns("poundcake.board_proxy:BoardProxy.has_address", "True"),
        test(
            AUTHENTICATION_TESTS + "TestBoardProxy::test_the_header_is_not_believed_from_elsewhere",
            "threads",
        ),
    ),
    Defence(
        "the header of a reverse proxy signs in to the board only",
        Edit(
            AUTHENTICATION + "authenticate",
            "is_page and self._proxy.is_configured",
            "self._proxy.is_configured",
        ),
        test(
            AUTHENTICATION_TESTS + "TestBoardProxy::test_the_header_is_believed_from_the_proxy",
            "threads",
        ),
    ),
    Defence(
        "text from an alert stays text on a page",
        Edit(
            "poundcake.endpoint.board.templates:_environment", "autoescape=True", "autoescape=False"
        ),
        test(
            "tests/lib/endpoint/board/test_error_page.py::TestErrorPages::"
            "test_hostile_text_stays_text",
            "threads",
        ),
    ),
    Defence(
        "the board links to web pages only, whatever an alert says is its runbook",
        Edit("poundcake.endpoint.board.alert_rows:safe_url", "check_http_url(url)", "str(url)"),
        test(
            "tests/lib/endpoint/board/test_episode_page.py::TestAlert::"
            "test_a_runbook_that_is_no_web_page_is_no_link"
        ),
    ),
    Defence(
        "a credential can only do what its scope allows",
        Returns("poundcake.credentials:Scope.allows", "True"),
        test(
            AUTHENTICATION_TESTS + "TestScopes::test_a_credential_with_scope_read_cannot_post",
            "threads",
        ),
    ),
    Defence(
        "only the webhook needs the scope post",
        Returns("poundcake.endpoint.routes:needed_scope", "Scope.POST"),
        test(
            AUTHENTICATION_TESTS + "TestScopes::test_a_credential_with_scope_post_cannot_read",
            "threads",
        ),
    ),
    Defence(
        "a signature that no shared secret produces for the body is refused",
        Edit(
            SIGNATURES + "BodySignatures._matching_credential",
            "hmac.compare_digest(_1, _2)",
            "True",
        ),
        UNSIGNED,
    ),
    Defence(
        "signatures are compared in constant time",
        Edit(
            SIGNATURES + "BodySignatures._matching_credential",
            "hmac.compare_digest",
            "__import__('operator').eq",
        ),
        test(
            AUTHENTICATION_TESTS + "TestSignatures::test_a_signature_is_compared_with_every_secret",
        ),
    ),
    Defence(
        "the timestamp is part of the signature",
        Edit(SIGNATURES + "_compute_signature", "hmac.new(_1, _2, _3)", "hmac.new(_1, b'', _3)"),
        test(AUTHENTICATION_TESTS + "TestSignatures::test_a_signed_webhook_is_accepted", "threads"),
    ),
    Defence(
        "an intercepted signature expires",
        Becomes(SIGNATURES + "MAX_CLOCK_DIFFERENCE", "1 << 40"),
        test(
            AUTHENTICATION_TESTS
            + "TestSignatures::test_a_signature_timestamp_more_than_5_minutes_off_is_refused"
        ),
    ),
    Defence(
        "the number of unauthenticated bodies that are read concurrently is bounded",
        Edit(SIGNATURES + "BodySignatures.verify", "_.acquire(blocking=False)", "True"),
        test(
            AUTHENTICATION_TESTS
            + "TestSignatures::test_unauthenticated_unfinished_bodies_do_not_block_others",
            "threads",
        ),
    ),
    Defence(
        "an unusable body is not read to verify its signature",
        Edit(SIGNATURES + "BodySignatures.verify", "self._check_before_body(_)", "None"),
        test(
            AUTHENTICATION_TESTS + "TestSignatures::test_an_unusable_body_is_not_read",
            "threads",
        ),
    ),
    Defence(
        "a secret that is easy to guess is refused",
        Becomes("poundcake.credentials:MIN_SECRET_CHARACTERS", "1"),
        test(CONFIG_TESTS + "TestLength::test_a_secret_needs_at_least_16_characters"),
    ),
    Defence(
        "a misspelt reference is not used as the secret itself",
        Edit("poundcake.secret_references:resolve", "_ in _FORMS and _", "False"),
        test(CONFIG_TESTS + "TestSecrets::test_a_misspelt_reference_is_not_used_as_the_secret"),
    ),
    Defence(
        "no two credentials have the same name",
        Returns("poundcake.credentials:check_names", "None"),
        test(CONFIG_TESTS + "TestCredentials::test_the_name_basic_auth_is_reserved"),
    ),
    Defence(
        "the credential that posted a webhook is recorded",
        Edit(
            "poundcake.endpoint.authentication:Authentication.authenticate",
            "sufficient_credentials[0].name",
            "''",
        ),
        test(
            AUTHENTICATION_TESTS + "TestScopes::test_the_name_of_the_credential_is_recorded",
            "threads",
        ),
    ),
    Defence(
        "a failed attempt is counted",
        Edit(AUTHENTICATION + "_unauthenticated", "_.failed_authentications.inc()", "None"),
        FAILURES,
    ),
    Defence(
        "a failed attempt is logged without the credential",
        Edit(
            RECEIVER + "_log_denial",
            "request.client_host",
            "request.headers['authorization']",
        ),
        FAILURES,
    ),
    Defence(
        "failed attempts do not fill the log",
        Edit(
            "poundcake.endpoint.rate_limited_logger:RateLimitedLogger.warning", "_1 < _2", "False"
        ),
        FAILURES,
    ),
    Defence(
        "without credentials, only requests to a loopback name are answered",
        Edit(BROWSER_GUARD + "refuse_cross_site_request", "request.host and _", "False"),
        test(BROWSER_TESTS + "test_a_host_name_from_dns_rebinding_is_refused", "threads"),
    ),
    Defence(
        "without credentials, requests from pages of another origin are refused",
        Returns(BROWSER_GUARD + "_is_own_origin", "True"),
        test(BROWSER_TESTS + "test_a_request_from_another_origin_is_refused", "threads"),
    ),
    Defence(
        "browsers do not guess the type of a response",
        Becomes("poundcake.endpoint.app:_SECURITY_HEADERS", "{}"),
        test(
            APP_TESTS + "TestRoutes::test_browsers_must_not_sniff_or_cache_responses",
            "threads",
        ),
    ),
    Defence(
        "without a credential, the endpoint listens on loopback only",
        Edit(CONFIG + "_check_authentication", "not is_loopback(_) and not _", "False"),
        test(CONFIG_TESTS + "TestLoopback" + "::test_any_other_address_needs_credentials"),
    ),
    Defence(
        "ciphertext from StackStorm's datastore is not accepted as a token",
        Edit("poundcake.credentials:check_not_ciphertext", "_CIPHERTEXT.match(_)", "None"),
        test(CONFIG_TESTS + "TestTokens::test_ciphertext_is_refused"),
    ),
    Defence(
        "TLS versions before 1.2 are refused",
        Edit(
            TLS + "_create_context",
            "_1.minimum_version = _",
            "_1.minimum_version = ssl.TLSVersion.TLSv1; _1.set_ciphers('ALL:@SECLEVEL=0')",
        ),
        test(TLS_TESTS + "TestCertificate::test_tls_versions_before_1_2_are_refused", "threads"),
    ),
    Defence(
        "a renewed certificate is used",
        Edit(TLS + "Certificates.current", "_ != self._versions", "False"),
        test(
            TLS_TESTS + "TestCertificate::test_a_new_certificate_is_used_without_a_restart",
            "threads",
        ),
    ),
    Defence(
        "a broken certificate does not replace a valid one",
        Edit(TLS + "Certificates.current", "TLSError", "ZeroDivisionError"),
        test(
            TLS_TESTS
            + "TestCertificate::test_a_broken_certificate_does_not_replace_the_previous_one",
            "threads",
        ),
    ),
    Defence(
        "only a client certificate of the CA counts as a credential",
        Edit(
            SERVER + "_open_tls_stream", "Client(client_host)", "Client(client_host, 'CN=somebody')"
        ),
        test(
            CLIENT_CERTIFICATE_TESTS + "test_only_live_is_readable_without_a_certificate",
            "threads",
        ),
    ),
    Defence(
        "a replaced client CA ends the connections that it verified",
        Edit(SERVER + "_open_tls_stream", "certificates.current().client_ca == client_ca", "True"),
        test(
            CLIENT_CERTIFICATE_TESTS
            + "test_an_open_connection_ends_when_the_client_ca_is_replaced",
            "threads",
        ),
    ),
    Defence(
        "a client certificate that expires ends its connection",
        Edit(SERVER + "_open_tls_stream", "not certificate.is_expired", "True"),
        EXPIRED_CERTIFICATE,
    ),
    Defence(
        "a client whose certificate has expired cannot resume a session",
        Edit(TLS + "TLSStream.do_handshake", "certificate.is_expired", "False"),
        EXPIRED_CERTIFICATE,
    ),
    Defence(
        "a revoked client certificate is refused",
        Edit(TLS + "_create_context", "context.cert_store_stats()['crl']", "False"),
        test(CLIENT_CERTIFICATE_TESTS + "test_a_revoked_certificate_is_refused", "threads"),
    ),
    Defence(
        "a client certificate is verified",
        Edit(TLS + "_create_context", "ssl.CERT_OPTIONAL", "ssl.CERT_NONE"),
        test(CLIENT_CERTIFICATE_TESTS + "test_a_certificate_from_another_ca_is_refused"),
    ),
    Defence(
        "actions connect only to an endpoint with the pinned certificate",
        Edit(
            CLIENT + "_PinnedCertificate.init_poolmanager",
            "assert_fingerprint=_",
            "assert_fingerprint=None",
        ),
        test(CLIENT_TESTS + "TestCertificate::test_the_endpoints_own_certificate_is_pinned"),
    ),
    Defence(
        "actions never send their token to a proxy",
        Edit(CLIENT + "_create_session", "_1.trust_env = _", "_1.trust_env = True"),
        test(CLIENT_TESTS + "test_no_proxy_is_used"),
    ),
]

INPUT_LIMITS = [
    Defence(
        "the size of a body is bounded",
        Edit(WEBHOOK + "WebhookReceiver._check_headers", "length > max_length", "False"),
        test(WEBHOOK_TESTS + "TestRefused::test_a_body_over_the_limit_is_refused", "threads"),
    ),
    Defence(
        "a body without a length is refused",
        Edit(WEBHOOK + "WebhookReceiver._check_headers", "length is None", "False"),
        test(WEBHOOK_TESTS + "TestRefused::test_a_body_without_a_length_is_refused", "threads"),
    ),
    Defence(
        "a compressed body is refused",
        Edit(WEBHOOK + "WebhookReceiver._check_headers", "_ != 'identity'", "False"),
        MEDIA_TYPES,
    ),
    Defence(
        "a body is refused unless it is declared as JSON in UTF-8",
        Returns(WEBHOOK + "_is_json", "True"),
        MEDIA_TYPES,
    ),
    Defence(
        "a refused body is not read as the next request",
        Edit(CONNECTION + "HTTPConnection._serve_request", "_1 is h11.SEND_BODY", "False"),
        REFUSED_BODY,
    ),
    Defence(
        "leading zeros do not change a length",
        Edit(HEAD + "parse", "_LEADING_ZEROS.sub(_1, _2)", "_2"),
        FRAMING,
    ),
    Defence(
        "folded lines, bare CR or LF and control characters are refused",
        Edit(HEAD + "_check_lines", "not _LINES.fullmatch(head)", "False"),
        FRAMING,
    ),
    Defence(
        "an oversized Content-Length is refused as too large",
        Edit(HEAD + "_check_lines", "_HUGE_LENGTH.search(_)", "None"),
        FRAMING,
    ),
    Defence(
        "the number of header fields is bounded",
        Becomes(HEAD + "MAX_FIELDS", "1_000_000"),
        FRAMING,
    ),
    Defence(
        "the size of the header is bounded before authentication",
        Becomes(HEAD + "MAX_HEAD_BYTES", "1 << 30"),
        test(
            FRAMING_TESTS + "test_the_size_of_the_header_is_bounded_before_authentication",
            "threads",
        ),
    ),
    Defence(
        "no transfer coding is accepted",
        Edit(HEAD + "_validate", "'transfer-encoding' in headers", "False"),
        FRAMING,
    ),
    Defence(
        "other major versions of HTTP are refused",
        Edit(HEAD + "_validate", "not request.http_version.startswith(_)", "False"),
        FRAMING,
    ),
    Defence(
        "a missing Host is refused except in HTTP/1.0",
        Edit(HEAD + "_validate", "'host' not in headers and _", "False"),
        FRAMING,
    ),
    Defence(
        "a malformed Host is refused",
        Edit(HEAD + "_validate", "not _AUTHORITY.match(host)", "False"),
        FRAMING,
    ),
    Defence(
        "the host in the request target overrides the Host field",
        Edit(HEAD + "_validate", "target_host or host", "host"),
        test(BROWSER_TESTS + "test_the_host_in_an_absolute_url_is_checked", "threads"),
    ),
    Defence(
        "the time for a whole header is bounded",
        Edit(SOCKET + "_apply_deadline", "self._deadline - time.monotonic()", "1.0"),
        test(SERVER_TESTS + "TestSlowClients::test_slow_clients_are_disconnected", "threads"),
    ),
    Defence(
        "the time to send a whole response is bounded, on green threads too",
        Edit(SOCKET + "send", "self._apply_deadline()", "self._socket.settimeout(60)"),
        test(
            SERVER_TESTS
            + "TestSlowClients::test_a_client_that_reads_its_responses_slowly_is_disconnected"
        ),
    ),
    Defence(
        "the time for a whole handshake is bounded",
        Edit(SOCKET + "_apply_deadline", "self._deadline - time.monotonic()", "1.0"),
        test(
            TLS_TESTS + "TestWrongClients::test_the_time_limit_applies_to_the_whole_handshake",
            "threads",
        ),
    ),
    Defence(
        "the number of connections is bounded",
        Edit(CONNECTIONS + "admit", "len(_) >= self.limit", "False"),
        test(
            SERVER_TESTS + "TestConnectionLimit::test_the_connection_limit_holds_during_a_burst",
            "threads",
        ),
    ),
    Defence(
        "a request in progress is not evicted for another",
        Edit(CONNECTIONS + "admit", "_.phase < Phase.BUSY", "True"),
        test("tests/lib/endpoint/test_open_connections.py::test_a_busy_connection_is_never_closed"),
    ),
    Defence(
        "a refused connection does not block other clients",
        Edit(CONNECTION + "HTTPConnection._close", "Phase.LINGERING", "Phase.BUSY"),
        test(
            SERVER_TESTS
            + "TestConnectionLimit::test_clients_without_credentials_do_not_block_others",
            "threads",
        ),
    ),
    Defence(
        "the response arrives even while a large body is being sent",
        Becomes(CONNECTION + "LINGER_BYTES", "0"),
        test(
            SERVER_TESTS
            + "TestConnections::test_the_response_arrives_while_a_large_body_is_being_sent",
            "threads",
        ),
    ),
    Defence(
        "plain HTTP on a TLS port is refused",
        Edit(SERVER + "_open_stream", "Client(client_host, refusal=_)", "Client(client_host)"),
        test(TLS_TESTS + "TestWrongClients::test_a_webhook_over_plain_http_is_refused", "threads"),
    ),
    Defence(
        "the backlog is bounded, and checked before a body is read",
        Edit(WEBHOOK + "WebhookReceiver._check_backlog", "journal.backlog >= limit", "False"),
        test(
            SERVICE_TESTS
            + "TestBounds::test_no_body_is_requested_when_the_backlog_limit_is_reached"
        ),
    ),
    Defence(
        "the number of alerts in a request is bounded",
        Edit(ALERTMANAGER + "_read_alert_list", "len(_) > MAX_ALERTS", "False"),
        test(ALERTMANAGER_TESTS + "TestLimits::test_the_number_of_alerts_is_limited"),
    ),
    Defence(
        "the number of labels of an alert is bounded",
        Edit(ALERTMANAGER + "_check_labels", "len(_) > MAX_LABELS", "False"),
        test(ALERTMANAGER_TESTS + "TestLimits::test_the_number_of_labels_is_limited"),
    ),
    Defence(
        "the length of a label is bounded",
        Edit(ALERTMANAGER + "_check_labels", "len(_) > MAX_LABEL_NAME or _", "False"),
        test(ALERTMANAGER_TESTS + "TestLimits::test_the_length_of_a_label_is_limited"),
    ),
    Defence(
        "huge integers are not converted",
        Returns(ALERTMANAGER + "_parse_integer", "int(digits)"),
        test(ALERTMANAGER_TESTS + "TestRefusedRequest::test_huge_integers_are_not_converted"),
    ),
    Defence(
        "NaN is refused as invalid JSON",
        Edit(ALERTMANAGER + "decode", "parse_constant=_", "parse_constant=str"),
        test(ALERTMANAGER_TESTS + "TestRefusedRequest::test_a_number_that_is_not_json_is_refused"),
    ),
    Defence(
        "deep nesting is refused, and does not abort Python 3.8",
        Edit(ALERTMANAGER + "decode", "is_too_deep(body)", "False"),
        test(ALERTMANAGER_TESTS + "TestRefusedRequest::test_deep_nesting_is_refused"),
    ),
    Defence(
        "the number of rows in a page is bounded",
        Becomes("poundcake.trail.search:MAX_ROWS", "1_000_000"),
        test(TRAIL_TESTS + "test_the_response_to_an_invalid_query_names_the_parameter", "threads"),
    ),
    Defence(
        "an id from a sender is used only if it is a UUID",
        Edit(WEBHOOK + "_sender_request_id", "_1 if _2 else ''", "_1"),
        test(WEBHOOK_TESTS + "TestRequestIDs::test_any_other_id_is_ignored", "threads"),
    ),
    Defence(
        "the number of bytes in a page is bounded",
        Becomes("poundcake.endpoint.trail_routes:MAX_PAGE_BYTES", "1 << 40"),
        test(
            TRAIL_TESTS
            + "TestPageSize::test_a_page_that_is_too_large_is_queried_again_with_fewer_rows"
        ),
    ),
    Defence(
        "a refused webhook is logged",
        Returns("poundcake.endpoint.refused_webhooks:RefusedWebhooks.add", "None"),
        test(
            "tests/lib/endpoint/test_refused_webhooks.py::test_each_refusal_is_counted_with_its_reason",
            "threads",
        ),
    ),
]

INERT_TEXT_AND_SAFETY = [
    Defence(
        "an opening brace is replaced",
        Edit(LOOKALIKES, "'{'", "'x'"),
        INERT_TEXT,
    ),
    Defence(
        "a less-than sign is replaced",
        Edit(LOOKALIKES, "'<'", "'x'"),
        INERT_TEXT,
    ),
    Defence(
        "a quote cannot end the JSON text of a nested parameter",
        Edit(LOOKALIKES, "'\"'", "'x'"),
        test(PARAMETER_TESTS + "test_hostile_text_stays_a_single_string"),
    ),
    Defence(
        "a backslash cannot begin an escape sequence in a nested parameter",
        Edit(LOOKALIKES, "'\\\\'", "'x'"),
        test(PARAMETER_TESTS + "test_hostile_text_stays_a_single_string"),
    ),
    Defence(
        "a line break in the text of an alert cannot make a rule fail",
        Edit("poundcake.inert:_inert_text", "printable(_1)", "_1"),
        test(PARAMETER_TESTS + "test_hostile_text_stays_a_single_string"),
    ),
    Defence(
        "no text is read as null",
        Edit("poundcake.inert:_inert_text", "_ASTERISK_BEFORE_ANOTHER.sub(_, _1)", "_1"),
        test(PARAMETER_TESTS + "test_hostile_text_stays_a_single_string"),
    ),
    Defence(
        "the names of labels are made inert",
        Edit(
            "poundcake.inert:make_inert",
            "{_1[_2]: _3 for _4, _5 in _6}",
            "{_2: _3 for _4, _5 in _6}",
        ),
        INERT_TEXT,
    ),
    Defence(
        "no label name replaces another",
        Edit("poundcake.inert:_inert_keys", "_[_] in _", "False"),
        test(INERT_TESTS + "test_an_inert_key_does_not_overwrite_another_key"),
    ),
    Defence(
        "the trigger of an alert contains only inert text",
        Edit(TRIGGERS + "alert_payload", "make_inert(_1)", "_1"),
        INERT_TRIGGERS,
    ),
    Defence(
        "the trigger of a webhook contains only inert text",
        Edit(TRIGGERS + "webhook_payload", "make_inert(_1)", "_1"),
        INERT_TRIGGERS,
    ),
    Defence(
        "the trigger of a reached limit contains only inert text",
        Edit(TRIGGERS + "limit_reached_payload", "make_inert(_1)", "_1"),
        INERT_TRIGGERS,
    ),
    Defence(
        "an announcement contains no text that could be evaluated",
        Edit("poundcake.announcement:pack", "{'batch': _}", "{'batch': '{{ 1 }}'}"),
        test("tests/lib/test_announcement.py::test_a_batch_contains_only_inert_characters"),
    ),
    Defence(
        "the result of an action is inert",
        Edit(ACTION, "make_lines_inert(_1) if _2 else make_inert(_1)", "_1"),
        test(ACTION_TESTS + "test_a_result_is_inert"),
    ),
    Defence(
        "the error of an action is inert",
        Edit(ACTION, "make_inert(str(_1))", "str(_1)"),
        test(ACTION_TESTS + "test_an_error_is_inert"),
    ),
    Defence(
        "the error message of a crashed action is inert",
        Edit(
            ACTION,
            "make_inert(f'{_1}: {_2}')",
            "__import__('traceback').format_exc().splitlines()[-1]",
        ),
        test(ACTION_TESTS + "test_a_crash_is_reported_in_one_inert_line_without_a_traceback"),
    ),
    Defence(
        "the result of another pack's action is not passed on",
        Edit(
            "poundcake.remediation.build_report:_Tasks.result",
            "not _.startswith(_OWN_ACTIONS)",
            "False",
        ),
        test(REPORT_TESTS + "test_the_result_of_another_packs_action_is_not_passed_on"),
    ),
    Defence(
        "a host must be a host name or an address",
        Edit(HOSTS, "_1 if _NAME.match(_1) else ''", "_1"),
        HOSTILE_HOST,
    ),
    Defence(
        "a number is not a host name",
        Edit(HOSTS, "_ENDS_IN_A_NUMBER.match(_)", "False"),
        HOSTILE_HOST,
    ),
    Defence(
        "an address with a scope is refused",
        Edit("poundcake.hosts:_parse_ipv6", "'%' in _", "False"),
        HOSTILE_HOST,
    ),
    Defence(
        "a wildcard in allowed_hosts matches a single label",
        Edit("poundcake.hosts:_pattern_matches", "len(_) == len(_)", "True"),
        test(HOSTS_TESTS + "test_a_pattern_matches_the_expected_hosts"),
    ),
    Defence(
        "StackStorm's own machine is not a target",
        Returns("poundcake.hosts:target_refusal", "''"),
        test(SAFETY_TESTS + "test_stackstorm_itself_is_neither_changed_nor_checked"),
    ),
    Defence(
        "a name that resolves to StackStorm's own machine is not a target",
        Edit(CHECKS + "_resolve", "address_refusal(_)", "''"),
        test(CHECKS_TESTS + "test_stackstorm_is_not_checked_under_a_name_that_resolves_to_it"),
    ),
    Defence(
        "only a valid host is contacted",
        Edit(CHECKS + "check_host", "canonical_host(_1)", "_1"),
        test(CHECKS_TESTS + "test_an_invalid_host_is_refused"),
    ),
    Defence(
        "a host whose name does not resolve does not count as down",
        Edit(CHECKS + "_try_all", "TcpState.UNRESOLVABLE", "TcpState.NO_ANSWER"),
        test(CHECKS_TESTS + "test_a_failing_name_server_does_not_mean_that_the_host_is_down"),
    ),
    Defence(
        "a host that refuses a connection does not count as down",
        Edit(CHECKS + "_try_all", "TcpState.REFUSED", "TcpState.NO_ANSWER"),
        test(CHECKS_TESTS + "test_the_best_result_of_all_ports_counts"),
    ),
    Defence(
        "a host that is not down when poundcake.host_down begins is not changed",
        Edit(BEGIN + "Decision.with_host_check", "self.may_reserve and is_down", "True"),
        test(BEGIN_TESTS + "TestHostDown::test_any_other_host_is_not_changed"),
    ),
    Defence(
        "a host that is not down immediately before its change is not changed",
        Edit(SAFETY + "with_host_check", "result.state is TcpState.NO_ANSWER", "True"),
        test(
            HOST_DOWN_TESTS + "test_a_host_that_returns_before_the_change_is_not_changed",
            "sqlite",
        ),
    ),
    Defence(
        "a host that may not be changed is not checked when poundcake.host_down begins",
        Edit(BEGIN + "_decide_with_host_check", "decision.may_inspect", "True"),
        test(BEGIN_TESTS + "TestHostDown::test_a_host_that_may_not_be_changed_is_not_checked"),
    ),
    Defence(
        "a host that may not be changed is not checked immediately before its change",
        Edit("reserve:Reserve._check_host", "decision.may_check", "True"),
        test(
            HOST_DOWN_TESTS + "test_a_host_that_may_not_be_changed_is_not_checked",
            "sqlite",
        ),
    ),
    Defence(
        "only allowed hosts are changed",
        Edit(SAFETY + "_check_host_is_allowed", "not is_host_in(_, _)", "False"),
        REFUSALS,
    ),
    Defence(
        "a denied host is not changed",
        Edit(SAFETY + "_check_host_is_allowed", "is_host_in(_, config.denied_hosts)", "False"),
        test(SAFETY_TESTS + "test_a_denied_host_is_refused_even_if_it_is_allowed"),
    ),
    Defence(
        "a pause prevents a change",
        Returns(SAFETY + "_check_pause", "None"),
        test(CONTROLS, "paused"),
    ),
    Defence(
        "an acknowledgement prevents a change",
        Returns(SAFETY + "_check_acknowledgement", "None"),
        test(CONTROLS, "acknowledged"),
    ),
    Defence(
        "a silence prevents a change",
        Returns(SAFETY + "_check_silence", "None"),
        test(CONTROLS, "silenced"),
    ),
    Defence(
        "nothing is changed while no Alertmanager answers",
        Returns(SAFETY + "_check_silence", "None"),
        test(CONTROLS, "alertmanager_unavailable"),
    ),
    Defence(
        "another change's claim on the episode prevents a change",
        Returns(SAFETY + "_check_episode", "None"),
        test(CONTROLS, "episode_taken"),
    ),
    Defence(
        "a storm prevents a change",
        Returns(SAFETY + "_check_storm", "None"),
        test(CONTROLS, "storm"),
    ),
    Defence(
        "an incident that is too young prevents a change",
        Returns(SAFETY + "_check_settling", "None"),
        test(CONTROLS, "settling"),
    ),
    Defence(
        "an old notification prevents a change",
        Returns(SAFETY + "_check_freshness", "None"),
        test(CONTROLS, "stale"),
    ),
    Defence(
        "a change in flight prevents a change",
        Returns(SAFETY + "_check_in_flight", "None"),
        test(CONTROLS, "in_flight"),
    ),
    Defence(
        "the cooldown of a target prevents a change",
        Returns(SAFETY + "_check_cooldown", "None"),
        test(CONTROLS, "cooldown"),
    ),
    Defence(
        "the daily limit of a target prevents a change",
        Returns(SAFETY + "_check_daily_limit", "None"),
        test(CONTROLS, "daily_target_limit"),
    ),
    Defence(
        "the hourly limit of a remediation prevents a change",
        Returns(SAFETY + "_check_hourly_limit", "None"),
        test(CONTROLS, "hourly_limit"),
    ),
    Defence(
        "the hourly limit of the site prevents a change",
        Returns(SAFETY + "_check_site_limit", "None"),
        test(CONTROLS, "site_limit"),
    ),
    Defence(
        "the breaker prevents a change",
        Returns(SAFETY + "_check_breaker", "None"),
        test(CONTROLS, "breaker"),
    ),
    Defence(
        "simultaneous workflows cannot exceed a limit",
        Returns(PAUSE + "lock_decisions", "None"),
        test(LIMITS_TESTS + "TestSimultaneous::test_no_more_than_three_are_in_flight", "mariadb"),
    ),
    Defence(
        "a refused change is tried again at most once",
        Edit(RETRY + "_mark", "retried_at = now", "retried_at=None"),
        test(
            RETRY_TESTS + "TestNeverTwice::test_after_an_unknown_outcome_the_change_is_not_retried",
            "sqlite",
        ),
    ),
    Defence(
        "a refused change whose workflow may have been started is not tried again",
        Returns("poundcake.stackstorm.api:StackStormError.had_no_effect", "True"),
        test(
            RETRY_TESTS + "TestNeverTwice::test_after_an_unknown_outcome_the_change_is_not_retried",
            "sqlite",
        ),
    ),
    Defence(
        "a change is not retried if only a person can lift its refusal",
        Becomes(SAFETY + "PASSING_REFUSALS", "(*_, Refusal.PAUSED)"),
        test(RETRY_TESTS + "TestKinds::test_the_refusals_that_end_by_themselves_are_listed"),
    ),
    Defence(
        "a workflow that is not the pack's own is not started again",
        Returns(RETRY + "_may_start_again", "True"),
        test(
            RETRY_TESTS + "TestConditions::test_a_workflow_that_is_not_the_packs_own_is_given_up",
            "sqlite",
        ),
    ),
    Defence(
        "an execution of an earlier attempt does not get the claim after a replay",
        Edit(CLAIMS + "_refusal_reason", "alert.attempt < newest_attempt", "False"),
        test(
            RETRY_TESTS
            + "TestNeverTwice"
            + "::test_a_forced_replay_during_the_mark_allows_one_change",
            "sqlite",
        ),
    ),
    Defence(
        "the change of a cancelled workflow is in flight until the change has ended",
        Edit(SETTLE + "_is_running", "any(_)", "False"),
        test(
            SETTLE_TESTS
            + "test_a_cancelled_workflow_keeps_its_change_in_flight_until_the_change_has_ended",
            "sqlite",
        ),
    ),
    Defence(
        "an episode is not released while its change may run",
        Edit("poundcake.trail.release:release_claims", "unfinished_changes and not force", "False"),
        test(
            LIMITS_TESTS
            + "TestEpisodes::test_a_release_is_refused_while_the_change_may_be_running",
            "sqlite",
        ),
    ),
    Defence(
        "without the tracking database, nothing is changed",
        Edit(SAFETY + "refuse_without_database", "Refusal.DATABASE_UNAVAILABLE", "None"),
        test(
            LIMITS_TESTS + "TestActions::test_no_change_is_granted_without_the_database",
            "sqlite",
        ),
    ),
    Defence(
        "a purge keeps the failures that a breaker counts",
        Edit("poundcake.trail.purge:_delete_changes", "~is_counted", "True"),
        test(
            PURGE_TESTS + "TestChanges::test_failures_are_kept_while_the_breaker_counts_them",
            "sqlite",
        ),
    ),
    Defence(
        "without allowed hosts, no host is changed",
        Returns(SAFETY + "_check_allowed_hosts", "None"),
        test(SAFETY_TESTS + "test_empty_allowed_hosts_permit_no_change", "True"),
    ),
    Defence(
        "a removed token is refused on open connections",
        Edit("poundcake.endpoint.service:Endpoint._apply", "self._receiver.configure(_)", "None"),
        test(
            RECONFIGURATION_TESTS
            + "TestChanges::test_a_removed_token_is_refused_on_open_connections",
            "threads",
        ),
    ),
    Defence(
        "an unusable configuration changes nothing",
        Edit("poundcake.endpoint.service:Endpoint._apply", "self._replace_server(_, _, _)", "None"),
        test(
            RECONFIGURATION_TESTS
            + "TestUnusableConfigurations::test_a_port_in_use_is_retried_until_it_is_free",
            "threads",
        ),
    ),
    Defence(
        "a misspelt key is refused",
        Returns("poundcake.unknown_keys:refuse_unknown_keys", "None"),
        test(CONFIG_TESTS + "TestUnknownKeys::test_the_most_similar_key_is_suggested"),
    ),
    Defence(
        "only allowed actions are run",
        Edit(SAFETY + "_check_action", "_ not in config.allowed_actions", "False"),
        REFUSALS,
    ),
    Defence(
        "a dry run changes nothing",
        Edit(SAFETY + "decide", "_describe_dry_run(_, _, _, _, _)", "None"),
        test(SAFETY_TESTS + "test_a_dry_run_reports_what_it_would_run"),
    ),
    Defence(
        "a dry run is the default",
        Becomes(CONFIG + "Config.dry_run", "_boolean(False)"),
        test(CONFIG_TESTS + "TestSchema::test_schema_and_code_have_the_same_defaults"),
    ),
    Defence(
        "text in a terminal cannot move the cursor",
        Returns("poundcake.inert:one_line", "text"),
        test(
            "tests/lib/trail/text/test_text_views.py::test_nothing_moves_the_cursor_or_forges_a_line"
        ),
    ),
    Defence(
        "an id stays one segment of the path of a request to StackStorm's API",
        Returns(
            "poundcake.stackstorm.client:StackStorm._get_execution_document",
            "self.get('/executions/' + execution_id)",
        ),
        test(
            "tests/lib/stackstorm/test_client.py::TestRequesting::test_an_id_cannot_change_the_path"
        ),
    ),
]

ONE_REMEDIATION = [
    Defence(
        "no incident is closed unless every Alertmanager answered",
        Edit(
            RECONCILE + "_Comparison.__init__",
            "not any(_)",
            "True",
        ),
        test(RECONCILE_TESTS + "TestStaysOpenIf::test_no_alertmanager_answered_in_the_first_round"),
    ),
    Defence(
        "an Alertmanager that has just started closes no incident",
        Edit(
            RECONCILE + "_check_uptimes",
            "uptime >= duration",
            "True",
        ),
        test(RECONCILE_TESTS + "TestStaysOpenIf::test_an_alertmanager_has_just_started"),
    ),
    Defence(
        "Alertmanager closes no incident of another sender",
        Edit(
            RECONCILE + "_Comparison._missing_since",
            "incident.external_url not in self._external_urls",
            "False",
        ),
        test(RECONCILE_TESTS + "TestStaysOpenIf::test_the_sender_is_not_configured"),
    ),
    Defence(
        "an incident is closed only after gone_after_seconds",
        Edit(
            RECONCILE + "_Comparison.is_gone",
            "self._queried_at - since >= gone_after",
            "True",
        ),
        test(RECONCILE_TESTS + "TestStaysOpenIf::test_the_alert_was_missing_too_briefly"),
    ),
    Defence(
        "a notification that was just received outweighs Alertmanager's answer",
        Edit(
            RECONCILE + "_Comparison._missing_since",
            "self._queried_at - incident.last_seen_at >= MARGIN",
            "True",
        ),
        test(
            RECONCILE_TESTS + "TestStaysOpenIf::test_a_notification_arrived_just_before_the_query"
        ),
    ),
    Defence(
        "a notification during the round keeps its incident open",
        Edit(
            RECONCILE + "_close",
            "alerts.c.last_seen_at < alerts.c.missing_since",
            "is_open()",
        ),
        test(RECONCILE_TESTS + "TestStaysOpenIf::test_a_notification_is_recorded_during_the_round"),
    ),
    Defence(
        "a repeated notification starts nothing",
        Edit(ADMISSION + "_decide_repeat", "_.outcome == Outcome.ADMITTED", "False"),
        test(
            ADMISSION_TESTS + "TestFiring::test_a_repeat_is_a_duplicate_with_the_incidents_episode"
        ),
    ),
    Defence(
        "a notification that arrives after its resolve starts nothing",
        Returns(ADMISSION + "_judge_refire", "None"),
        test(
            ADMISSION_TESTS
            + "TestFiring::test_an_earlier_resolve_determines_the_outcome_of_a_firing_alert"
        ),
    ),
    Defence(
        "two alerts to which a sender gives the same fingerprint stay separate",
        Edit(
            ALERTMANAGER + "_AlertReader.read",
            "fingerprint=computed_fingerprint",
            "fingerprint=sender_fingerprint",
        ),
        test(
            ALERTMANAGER_TESTS
            + "TestIdentity::test_instances_with_the_same_sender_fingerprint_are_separate_alerts"
        ),
    ),
    Defence(
        "a delayed resolve does not close a newer incident",
        Edit(ADMISSION + "_decide_resolve", "received_at < _", "False"),
        test(
            ADMISSION_TESTS
            + "TestResolved::test_a_resolve_received_before_the_last_notification_closes_nothing"
        ),
    ),
    Defence(
        "a receiver that is not listed starts nothing",
        Edit(ADMISSION + "_decide_new", "not situation.may_start", "False"),
        test(ADMISSION_TESTS + "TestFiring::test_an_alert_of_an_unlisted_receiver_is_observed"),
    ),
    Defence(
        "nothing is started for an acknowledged incident",
        Returns("poundcake.trail.claims:_acknowledged_by", "''"),
        test(
            "tests/lib/trail/test_interventions.py::TestAcknowledge"
            "::test_a_workflow_that_has_not_started_is_refused",
            "sqlite",
        ),
    ),
    Defence(
        "an alert that keeps firing and resolving has a cooldown",
        Returns(LIMITS + "_find_cooldown", "None"),
        test(
            RECORD_TESTS + "TestLimits::test_a_cooldown_holds_the_alert_back_until_it_ends",
            "sqlite",
        ),
    ),
    Defence(
        "each alert name has an hourly limit",
        Returns(LIMITS + "_find_rate_limit", "None"),
        test(
            RECORD_TESTS
            + "TestLimits::test_a_rate_limit_holds_back_more_alerts_with_the_same_name",
            "sqlite",
        ),
    ),
    Defence(
        "all alerts about a host share its cooldown",
        Edit("poundcake.trail.claims:_refusal_reason", "_ and _ and alert.host", "False"),
        test(
            "tests/lib/trail/test_claims.py::"
            "TestHostCooldown::test_one_of_several_concurrent_executions_gets_a_claim",
            "sqlite",
        ),
    ),
    Defence(
        "an execution that changes nothing takes no claim",
        Edit("poundcake.trail.claims:_link", "_ if claimant.may_change else None", "key"),
        test(
            "tests/lib/trail/test_claims.py::"
            "TestLink::test_an_execution_without_a_change_takes_no_claim",
            "sqlite",
        ),
    ),
    Defence(
        "the value of a label reaches an action only if it is safe",
        Edit("poundcake.remediations:_safe_value", "not _SAFE_VALUE.match(value)", "False"),
        test(
            "tests/lib/test_remediations.py::TestParameters::test_any_other_value_is_refused",
        ),
    ),
    Defence(
        "no change is made without the checks that its entry requires",
        Edit("poundcake.remediation.begin:decide_entry", "decision.may_reserve and obstacle", "''"),
        test(
            "tests/lib/remediation/test_begin.py::test_a_refusal_has_a_reason_and_fails_the_workflow",
        ),
    ),
    Defence(
        "no change is made unless the conditions of its entry permit it",
        Edit("poundcake.remediation.safety:_check_confirmation", "not request.objection", "True"),
        test(
            CONTROLS,
            "not_confirmed",
        ),
    ),
    Defence(
        "a condition that cannot be checked permits no change",
        Edit("poundcake.remediation.conditions:check_conditions", "str(error)", "''"),
        test("tests/lib/remediation/test_conditions.py::test_the_alert_must_be_firing"),
    ),
    Defence(
        "a check that was added to an entry after the start must run before the change",
        Edit(
            "poundcake.remediation.safety:find_entry_objection",
            "any(str(_1) not in host_checks for _1 in checks)",
            "False",
        ),
        test(
            "tests/lib/remediation/test_safety.py::test_a_check_added_since_the_start_must_run_before_the_change",
        ),
    ),
    Defence(
        "the checks of the host before the approval do not permit the change",
        Becomes("poundcake.remediation.inspections:INSPECT_TASK", "'inspect_first'"),
        test(
            FINDING_TESTS
            + "TestChecks::test_the_inspections_before_the_approval_do_not_permit_the_change",
        ),
    ),
    Defence(
        "deciding whether to ask for an approval does not permit a change",
        Edit(
            "poundcake.trail.limits:_write_decision",
            "request.preview and decision.may_change",
            "False",
        ),
        test(
            LIMITS_TESTS
            + "TestActions::test_a_preview_decides_without_an_approval_and_counts_nothing",
            "sqlite",
        ),
    ),
    Defence(
        "an entry that was edited since the start permits no change",
        Edit(
            "poundcake.remediation.safety:find_entry_objection", "entry.action != action", "False"
        ),
        test(SAFETY_TESTS + "test_an_entry_changed_since_the_start_prevents_the_change"),
    ),
    Defence(
        "a change is verified only after two evaluations",
        Edit(
            "poundcake.remediation.polls:_compare_polls", "len(previous) != len(current)", "False"
        ),
        test(
            "tests/lib/remediation/test_verification.py::"
            "test_two_evaluations_without_the_alert_confirm_a_change"
        ),
    ),
    Defence(
        "an evaluation before the change does not verify it",
        Edit(
            "poundcake.remediation.polls:_find_problem",
            "not _was_evaluated_since_change(_1, _2)",
            "False",
        ),
        test("tests/lib/remediation/test_verification.py::test_no_other_result_confirms_a_change"),
    ),
    Defence(
        "a series that disappeared does not verify a change",
        Edit("poundcake.remediation.polls:_find_scrape_problem", "sample.value != 1", "False"),
        test("tests/lib/remediation/test_verification.py::test_no_other_result_confirms_a_change"),
    ),
    Defence(
        "a check whose result could not be read permits no change",
        Edit(FINDINGS + "_find_objection", "_.holds is None", "False"),
        test(
            FINDING_TESTS + "TestChecks::test_a_check_with_an_unreadable_result_prevents_a_change"
        ),
    ),
    Defence(
        "a healthy host is not changed",
        Edit(FINDINGS + "_find_objection", "not _.holds", "False"),
        test(FINDING_TESTS + "TestChecks::test_a_healthy_host_prevents_a_change"),
    ),
    Defence(
        "an old check permits no change",
        Edit(
            FINDINGS + "_find_objection",
            "now - finding.ended_at > timedelta(minutes=_MAX_AGE_MINUTES)",
            "False",
        ),
        test(FINDING_TESTS + "TestChecks::test_an_old_check_prevents_a_change"),
    ),
    Defence(
        "a service in an unknown state is not restarted",
        Edit(
            FINDINGS + "_read_service",
            "not facts.is_active and facts.state not in _DOWN_STATES",
            "False",
        ),
        test(
            FINDING_TESTS
            + "TestChecks::test_a_service_in_another_state_neither_permits_nor_confirms_a_change"
        ),
    ),
    Defence(
        "a failed check permits no change",
        Returns(FINDINGS + "_require_success", "None"),
        test(FINDING_TESTS + "TestActions::test_a_failed_action_prevents_a_change"),
    ),
    Defence(
        "no change is made in ask mode without an approval",
        Edit(
            "poundcake.remediation.safety:_check_approval", "not request.approval_problem", "True"
        ),
        test(
            CONTROLS,
            "approval_missing",
        ),
    ),
    Defence(
        "only an approver can approve",
        Edit("poundcake.remediation.approval:read_approval", "answered_by in approvers", "True"),
        test("tests/lib/remediation/test_approval.py::test_every_other_answer_prevents_the_change"),
    ),
    Defence(
        "a remediation that no longer matches the alert is refused",
        Edit(
            "poundcake.remediation.begin:decide_entry", "not entry.matches(alert.labels)", "False"
        ),
        test(
            "tests/lib/remediation/test_begin.py::test_a_refusal_has_a_reason_and_fails_the_workflow",
        ),
    ),
    Defence(
        "all spellings of a host share its cooldown",
        Edit(
            "poundcake.trail.rows:alert_row",
            "host_from_labels(alert.labels, host_label)",
            "alert.instance",
        ),
        test(
            "tests/lib/trail/test_claims.py::"
            "TestHostCooldown::test_instances_of_the_same_host_share_the_cooldown",
            "sqlite",
        ),
    ),
    Defence(
        "purge deletes nothing after the clock has jumped ahead",
        Edit("poundcake.trail.purge:_check_clocks", "min(_PROOF_AGE, age / 2)", "timedelta(0)"),
        test(
            "tests/lib/trail/test_purge.py::TestRefused::"
            "test_requests_received_after_the_clock_jumped_do_not_prove_it_right"
        ),
    ),
]

SECRETS = [
    Defence(
        "no header with a credential is stored",
        Becomes(WEBHOOK + "STORED_HEADERS", "(*_, 'Authorization')"),
        test(
            WEBHOOK_TESTS + "TestStoredHeaders::test_only_headers_on_the_allow_list_are_stored",
            "threads",
        ),
    ),
    Defence(
        "database errors do not show the password",
        Edit(DESCRIBE, "_1.replace(_, '***')", "_1"),
        PASSWORD,
    ),
    Defence(
        "a displayed database URL does not show the password",
        Edit(PUBLIC_URL, "hide_password=_", "hide_password=False"),
        PASSWORD,
    ),
    Defence(
        "a displayed database URL does not show its query string",
        Edit(PUBLIC_URL, "url.set(query=_)", "url"),
        PASSWORD_FORMS,
    ),
    Defence(
        "a password in the query string of a database URL is masked in errors",
        Edit("poundcake.trail.database.transactions:_secrets", "'pass' in _", "False"),
        PASSWORD_FORMS,
    ),
    Defence(
        "an @ in a password is not parsed as the start of the host",
        Edit("poundcake.trail.database.engine:open_engine", "'@' in _", "False"),
        test(DATABASE_TESTS + "TestRefused::test_an_at_sign_in_a_password_does_not_start_the_host"),
    ),
    Defence(
        "only the URL of a database may contain a password",
        Edit("poundcake.urls:check_http_url", "'@' in _", "False"),
        test(CONFIG_TESTS + "TestTypes::test_the_error_about_an_unusable_string_names_the_key"),
    ),
    Defence(
        "other users cannot read a new database",
        Becomes("poundcake.trail.shared_files:FILE_MODE", "0o644"),
        test(FILE_TESTS + "test_only_the_owner_and_the_group_can_access_a_database"),
    ),
    Defence(
        "other users lose access to an existing database",
        Returns("poundcake.trail.database.tables:_revoke_file_access", "None"),
        test(FILE_TESTS + "test_other_users_lose_access_to_an_existing_database"),
    ),
    Defence(
        "other users lose access to existing files of the journal",
        Edit("poundcake.endpoint.journal_file:_open", "revoke_access_of_others(_)", "None"),
        test(
            "tests/lib/endpoint/test_journal.py::TestOpening::"
            "test_others_lose_access_to_existing_files"
        ),
    ),
    Defence(
        "database errors show no row",
        Edit(DESCRIBE, "' '.join(_) or _", "str(error)"),
        test(DATABASE_TESTS + "TestRefused::test_an_error_shows_neither_statement_nor_parameters"),
    ),
    Defence(
        "a printed configuration shows no secret",
        Becomes(CONFIG + "Config.basic_auth", "_string(check=credentials.check_user_and_password)"),
        test(CONFIG_TESTS + "TestSecrets::test_no_secret_is_printed"),
    ),
    Defence(
        "a secret that the process list would show is reported",
        Edit(CONFIG + "load", "_.has_literal_secret(_)", "False"),
        test(CONFIG_TESTS + "TestSecrets::test_keys_with_literal_secrets_are_listed"),
    ),
    Defence(
        "other users cannot read the folder of the journal and the token",
        Edit("poundcake.trail.shared_files:make_folder", "os.mkdir(_1, _)", "os.mkdir(_1, 0o777)"),
        test("tests/lib/trail/test_shared_files.py::test_other_users_cannot_access_a_folder"),
    ),
    Defence(
        "an internal error is answered without its details",
        Edit(
            RECEIVER + "__call__",
            "ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, _)",
            "ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, __import__('traceback').format_exc())",
        ),
        test(APP_TESTS + "TestErrors::test_the_response_to_an_internal_error_has_no_details"),
    ),
    Defence(
        "no metric has a label that a client controls",
        Edit(RECEIVER + "_finish", "metrics.OTHER", "path"),
        test(
            "tests/lib/endpoint/test_metrics.py::"
            "TestRequests::test_no_label_contains_text_from_a_client"
        ),
    ),
]

DEFENCES = ACCESS + INPUT_LIMITS + INERT_TEXT_AND_SAFETY + ONE_REMEDIATION + SECRETS
