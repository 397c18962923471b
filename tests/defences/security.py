"""Nobody gets in, nothing gets evaluated: held by tests of their own."""

from tests.defences.defence import Defence, test

RECEIVER = "lib/poundcake/endpoint/app.py"
SERVER = "lib/poundcake/endpoint/http_server.py"
TLS = "lib/poundcake/endpoint/tls.py"
CONFIG = "lib/poundcake/config.py"
INERT = "lib/poundcake/inert.py"
HOSTS = "lib/poundcake/hosts.py"
REPORT = "lib/poundcake/remediation/report.py"
CHECKS = "lib/poundcake/remediation/checks.py"
ALERTMANAGER = "lib/poundcake/alertmanager.py"
REMEDIATION = "lib/poundcake/remediation/safety.py"
DATABASE = "lib/poundcake/trail/database/transactions.py"
_RECEIVER = "tests/lib/endpoint/test_app.py::"
_SERVER = "tests/lib/endpoint/test_http_server.py::"
_TLS = "tests/lib/endpoint/test_tls.py::"
_CONFIG = "tests/lib/test_config.py::"
_ALERTMANAGER = "tests/lib/test_alertmanager.py::"
_REMEDIATION = "tests/lib/remediation/test_remediation.py::"
_DATABASE = "tests/lib/trail/test_database.py::"
_ENDPOINT = "tests/lib/endpoint/test_service.py::"
PACK_ACTION = "actions/pack_action.py"
HOSTILE = "tests/scenarios/test_hostile_text.py::"

# Who may post.
WHO = [
    Defence(
        "whoever asks says who it is",
        RECEIVER,
        "if handler != self._live:",
        "if False:",
        test(_RECEIVER + "TestTokens::test_anything_else_will_not_and_nothing_is_stored"),
    ),
    Defence(
        "metrics, too, are for those who have a credential",
        RECEIVER,
        "if handler != self._live:",
        "if handler not in (self._live, self._scrape):",
        test(_RECEIVER + "TestTokens::test_anything_else_will_not_and_nothing_is_stored"),
    ),
    Defence(
        "credentials are compared in constant time",
        RECEIVER,
        "hmac.compare_digest(given, known) and scheme == way",
        "given == known and scheme == way",
        test(_RECEIVER + "TestTokens::test_the_time_that_it_takes_tells_nothing"),
    ),
    Defence(
        "all credentials are compared, whichever fits",
        RECEIVER,
        "        matches = [\n"
        "            hmac.compare_digest(given, known) and scheme == way for way, known in "
        "self._credentials\n"
        "        ]",
        "        matches = (\n"
        "            hmac.compare_digest(given, known) and scheme == way for way, known in "
        "self._credentials\n"
        "        )",
        test(_RECEIVER + "TestTokens::test_the_time_that_it_takes_tells_nothing"),
    ),
    Defence(
        "a password is no bearer token",
        RECEIVER,
        " and scheme == way for way",
        " for way",
        test(_RECEIVER + "TestBasicAuth::test_anything_else_will_not"),
    ),
    Defence(
        "a failed attempt is counted",
        RECEIVER,
        "self._station.metrics.failed_authentications.inc()",
        "pass",
        test(
            _RECEIVER
            + "TestBasicAuth::test_failures_are_counted_and_logged_once_without_what_was_given"
        ),
    ),
    Defence(
        "a failed attempt is logged without what was given",
        RECEIVER,
        '"unauthenticated request from %s refused", environ.get("REMOTE_ADDR", "?")',
        '"unauthenticated request with %s refused", text',
        test(
            _RECEIVER
            + "TestBasicAuth::test_failures_are_counted_and_logged_once_without_what_was_given"
        ),
    ),
    Defence(
        "failures do not fill the log",
        "lib/poundcake/endpoint/rate_limited_logger.py",
        "if now < next_at:",
        "if False:",
        test(
            _RECEIVER
            + "TestBasicAuth::test_failures_are_counted_and_logged_once_without_what_was_given"
        ),
    ),
    Defence(
        "without a credential it listens on loopback alone",
        CONFIG,
        "open_to_all = not is_loopback(config.host) and not config.authentication",
        "open_to_all = False",
        test(_CONFIG + "TestLoopback::test_anything_else_does_and_the_error_says_what_to_set"),
    ),
    Defence(
        "ciphertext of StackStorm's datastore is no token",
        CONFIG,
        "if _CIPHERTEXT.match(token):",
        "if False:",
        test(_CONFIG + "TestTokens::test_ciphertext_is_refused"),
    ),
    Defence(
        "TLS 1.2 at least",
        TLS,
        "context.minimum_version = ssl.TLSVersion.TLSv1_2",
        "context.minimum_version = ssl.TLSVersion.TLSv1; context.set_ciphers('ALL:@SECLEVEL=0')",
        test(_TLS + "TestCertificate::test_versions_before_1_2_are_not_spoken", "threads"),
    ),
    Defence(
        "a certificate that has changed is used",
        TLS,
        "if looked != self._looked:",
        "if False:",
        test(_TLS + "TestCertificate::test_a_new_one_is_shown_without_a_restart", "threads"),
    ),
    Defence(
        "files that are broken replace nothing",
        TLS,
        "                except TLSError as error:\n",
        "                except ZeroDivisionError as error:\n",
        test(_TLS + "TestCertificate::test_a_broken_one_does_not_replace_it", "threads"),
    ),
    Defence(
        "a client's certificate is one of the CA's",
        SERVER,
        "self.certified = secured.do_handshake(HEADER_TIME)",
        "secured.do_handshake(HEADER_TIME); self.certified = True",
        test(_TLS + "TestClientCertificates::test_without_one_only_live_is_answered", "threads"),
    ),
    Defence(
        "a client's certificate is verified",
        TLS,
        "context.verify_mode = ssl.CERT_OPTIONAL",
        "context.verify_mode = ssl.CERT_NONE",
        test(_TLS + "TestClientCertificates::test_one_of_another_ca_ends_the_connection"),
    ),
    Defence(
        "actions talk to the endpoint's own certificate alone",
        "lib/poundcake/endpoint_client.py",
        "assert_fingerprint=self._fingerprint, ",
        "",
        test(_TLS + "TestOurOwnActions::test_the_certificate_is_pinned", "threads"),
    ),
    Defence(
        "actions hand their token to no proxy",
        "lib/poundcake/endpoint_client.py",
        "session.trust_env = False",
        "session.trust_env = True",
        test(_ENDPOINT + "TestAskedByActions::test_no_proxy_is_asked"),
    ),
]

# What may come in.
BOUNDS = [
    Defence(
        "a body has a bound",
        RECEIVER,
        " or int(length) > self._config.max_body_bytes",
        "",
        test(_RECEIVER + "TestWebhook::test_too_large"),
    ),
    Defence(
        "a body has a length",
        RECEIVER,
        "        if not length:\n",
        "        if False:\n",
        test(_RECEIVER + "TestWebhook::test_no_length"),
    ),
    Defence(
        "a body is not compressed",
        RECEIVER,
        'if environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":',
        "if False:",
        test(_RECEIVER + "TestWebhook::test_other_media_types"),
    ),
    Defence(
        "a body is JSON in UTF-8",
        RECEIVER,
        'if media.strip() not in ("application/json", "") or charset not in ([], ["utf-8"]):',
        "if False:",
        test(_RECEIVER + "TestWebhook::test_other_media_types"),
    ),
    Defence(
        "a refused body is not read as the next request",
        SERVER,
        "if coded or body.left or self.server.stopping:",
        "if coded or self.server.stopping:",
        test(
            _SERVER + "TestFraming::test_what_is_left_of_a_refused_body_is_not_the_next_request",
            "threads",
        ),
    ),
    Defence(
        "nor is a body in a coding",
        SERVER,
        "if coded or body.left or self.server.stopping:",
        "if body.left or self.server.stopping:",
        test(
            _SERVER + "TestFraming::test_what_is_left_of_a_refused_body_is_not_the_next_request",
            "threads",
        ),
    ),
    Defence(
        "two lengths are none",
        SERVER,
        "broken = len(set(lengths)) > 1 or ",
        "broken = ",
        test(
            _SERVER + "TestFraming::test_what_is_ambiguous_is_refused_and_the_connection_ends",
            "threads",
        ),
    ),
    Defence(
        "a length is digits",
        SERVER,
        "(length and not (length.isascii() and length.isdigit()))",
        "False",
        test(
            _SERVER + "TestFraming::test_what_is_ambiguous_is_refused_and_the_connection_ends",
            "threads",
        ),
    ),
    Defence(
        "a length and a coding is none",
        SERVER,
        "if broken or (coded and lengths):",
        "if broken:",
        test(
            _SERVER + "TestFraming::test_what_is_ambiguous_is_refused_and_the_connection_ends",
            "threads",
        ),
    ),
    Defence(
        "a header with a line that is none is refused",
        SERVER,
        "if self.headers.defects or self.rfile.bare_cr:",
        "if self.rfile.bare_cr:",
        test(
            _SERVER + "TestFraming::test_what_is_ambiguous_is_refused_and_the_connection_ends",
            "threads",
        ),
    ),
    Defence(
        "a header with a CR within a line is refused",
        SERVER,
        "if self.headers.defects or self.rfile.bare_cr:",
        "if self.headers.defects:",
        test(
            _SERVER + "TestFraming::test_what_is_ambiguous_is_refused_and_the_connection_ends",
            "threads",
        ),
    ),
    Defence(
        "no input gets a 5xx",
        SERVER,
        "HTTPStatus(code if code < 500 else HTTPStatus.BAD_REQUEST)",
        "HTTPStatus(code)",
        test(_SERVER + "TestGarbage", "threads"),
    ),
    Defence(
        "a header has its time as a whole",
        SERVER,
        "left = self._deadline - time.monotonic()",
        "left = self._header_time",
        test(_SERVER + "TestSlow::test_all_of_them_are_cut_off", "threads"),
    ),
    Defence(
        "a client that does not read its answers has its time",
        SERVER,
        "        self._connection.settimeout(BODY_TIME)\n",
        "        self._connection.settimeout(3600)\n",
        test(_SERVER + "TestSlow::test_a_client_that_does_not_read_its_answers", "threads"),
    ),
    Defence(
        "a handshake has its time as a whole",
        TLS,
        "                left = deadline - time.monotonic()\n",
        "                left = self._seconds\n",
        test(_TLS + "TestWrongClients::test_a_handshake_has_its_time_as_a_whole", "threads"),
    ),
    Defence(
        "connections have a bound",
        SERVER,
        "if len(self._handlers) <= self._most:",
        "if True:",
        test(_SERVER + "TestFull::test_the_bound_holds_however_fast_they_come", "threads"),
    ),
    Defence(
        "no request under way is closed for another",
        SERVER,
        "if not h.busy and h is not handler]",
        "if h is not handler]",
        test(_SERVER + "TestFull::test_a_request_under_way_stays", "threads"),
    ),
    Defence(
        "plain HTTP on the port of TLS is no request",
        SERVER,
        "            if self.refusal:\n",
        "            if False:\n",
        test(_TLS + "TestWrongClients::test_no_webhook_comes_in_plain", "threads"),
    ),
    Defence(
        "what waits has a bound, known before a body is read",
        RECEIVER,
        "if journal.backlog >= self._config.backlog_limit:",
        "if False:",
        test(_ENDPOINT + "TestBounds::test_over_the_backlog_limit_nobody_sends_a_body_in_vain"),
    ),
    Defence(
        "alerts of a request have a bound",
        ALERTMANAGER,
        'if len(data["alerts"]) > MOST_ALERTS:',
        "if False:",
        test(_ALERTMANAGER + "TestBounds::test_alerts_of_a_request"),
    ),
    Defence(
        "labels of an alert have a bound",
        ALERTMANAGER,
        "if len(labels) > MOST_LABELS:",
        "if False:",
        test(_ALERTMANAGER + "TestBounds::test_labels_of_an_alert"),
    ),
    Defence(
        "a label's length has a bound",
        ALERTMANAGER,
        "if len(name) > LABEL_NAME or (isinstance(text, str) and len(text) > LABEL_VALUE):",
        "if False:",
        test(_ALERTMANAGER + "TestBounds::test_the_length_of_a_label"),
    ),
    Defence(
        "a huge number is not computed",
        ALERTMANAGER,
        "int(digits) if len(digits) <= _LONGEST_INTEGER else digits",
        "int(digits)",
        test(_ALERTMANAGER + "TestRefused::test_huge_integers_take_no_time"),
    ),
    Defence(
        "NaN is no JSON",
        ALERTMANAGER,
        "parse_constant=_refuse_constant",
        "parse_constant=str",
        test(_ALERTMANAGER + "TestRefused::test_numbers_that_json_has_not"),
    ),
    Defence(
        "nesting without end is the sender's fault",
        ALERTMANAGER,
        "    except RecursionError:\n",
        "    except ZeroDivisionError:\n",
        test(_ALERTMANAGER + "TestRefused::test_nesting_is_read_or_refused_however_deep"),
    ),
    Defence(
        "a page of a view has a bound",
        "lib/poundcake/trail/search.py",
        "MOST_ROWS = 1000",
        "MOST_ROWS = 1_000_000",
        test(_RECEIVER + "TestRoutes::test_a_query_that_is_wrong_names_its_parameter"),
    ),
    Defence(
        "a sender's id is a UUID or nothing",
        RECEIVER,
        'return given if len(given) == 36 and str(uuid.UUID(given)) == given else ""',
        "return given",
        test(_RECEIVER + "TestRequestIds::test_anything_else_is_ignored"),
    ),
]

# Nothing is evaluated.
INERT = [
    Defence(
        "a brace is no delimiter any more",
        INERT,
        'value.replace("{", "{ ").replace("<", "< ")',
        'value.replace("<", "< ")',
        test(_ALERTMANAGER + "TestInert::test_no_delimiter_survives_anywhere"),
    ),
    Defence(
        "nor is a lesser-than sign",
        INERT,
        'value.replace("{", "{ ").replace("<", "< ")',
        'value.replace("{", "{ ")',
        test(_ALERTMANAGER + "TestInert::test_no_delimiter_survives_anywhere"),
    ),
    Defence(
        "nor are two texts that are joined",
        INERT,
        'value.replace("{", "{ ").replace("<", "< ")',
        'value.replace("{{", "{ {").replace("{%", "{ %").replace("{#", "{ #").replace("<%", "< %")',
        test(_ALERTMANAGER + "TestInert::test_no_delimiter_comes_of_joining"),
    ),
    Defence(
        "names of labels are text, too",
        INERT,
        "{make_inert(k): make_inert(v) for k, v in value.items()}",
        "{k: make_inert(v) for k, v in value.items()}",
        test(_ALERTMANAGER + "TestInert::test_no_delimiter_survives_anywhere"),
    ),
    Defence(
        "an alert's trigger carries inert text",
        "lib/poundcake/endpoint/relay.py",
        '        return make_inert(\n            {\n                "request_id": self.request_id,\n'
        '                "episode": row.episode,\n',
        '        return dict(\n            {\n                "request_id": self.request_id,\n'
        '                "episode": row.episode,\n',
        test(
            "tests/lib/endpoint/test_relay.py::TestTheWay::test_every_string_is_inert_and_none_is_null"
        ),
    ),
    Defence(
        "a webhook's trigger carries inert text",
        "lib/poundcake/endpoint/relay.py",
        "    def webhook(self) -> Dict[str, Any]:\n        return make_inert(\n",
        "    def webhook(self) -> Dict[str, Any]:\n        return dict(\n",
        test(
            "tests/lib/endpoint/test_relay.py::TestTheWay::test_every_string_is_inert_and_none_is_null"
        ),
    ),
    Defence(
        "what waits to be recorded travels packed",
        "lib/poundcake/announcement.py",
        '"batch": base64.b64encode(packed).decode(),',
        '"batch": json.dumps(listed),',
        test("tests/lib/test_announcement.py::test_its_alphabet_is_inert"),
    ),
    Defence(
        "an action's result is inert",
        PACK_ACTION,
        "return True, make_inert(self.work(**parameters))",
        "return True, self.work(**parameters)",
        test(HOSTILE + "test_actions_show_it_inert", "sqlite"),
    ),
    Defence(
        "an action's refusal is inert",
        PACK_ACTION,
        "return False, make_inert(str(error))",
        "return False, str(error)",
        test("tests/test_actions.py::test_a_refusal_is_inert"),
    ),
    Defence(
        "an action's crash is inert",
        PACK_ACTION,
        'return False, make_inert(f"{type(error).__name__}: {str(error)[:300]}")',
        'return False, f"{type(error).__name__}: {str(error)[:300]}"',
        test("tests/test_actions.py::test_a_crash_is_a_line_that_is_inert"),
    ),
    Defence(
        "a rule hands ids to a workflow, not text",
        "rules/host_down.yaml",
        '    episode: "{{ trigger.episode }}"',
        '    episode: "{{ trigger.episode }}"\n    action: "{{ trigger.instance }}"',
        test("tests/test_pack_content.py::test_the_pack_has_no_problems"),
    ),
    Defence(
        "a workflow evaluates what the pack's own actions return, and nothing else",
        "workflows/on_host.yaml",
        "  - host: <% ctx().host %>\n",
        "  - host: <% task(run).result %>\n",
        test("tests/test_pack_content.py::test_the_pack_has_no_problems"),
    ),
    Defence(
        "what another pack's action returned is not passed on",
        REPORT,
        'if not child["action"]["ref"].startswith("poundcake."):',
        "if False:",
        test(_REMEDIATION + "TestReport::test_what_another_packs_action_returned_is_not_passed_on"),
    ),
    Defence(
        "a host is a host name or an address",
        HOSTS,
        "        return bool(_NAME.match(host))\n",
        "        return True\n",
        test(_REMEDIATION + "TestHostOf::test_a_hostile_instance_names_no_host"),
    ),
    Defence(
        "an address has no scope",
        HOSTS,
        'if "%" in host:',
        "if False:",
        test(_REMEDIATION + "TestHostOf"),
    ),
    Defence(
        "what is asked whether it is up is a host",
        CHECKS,
        "    if not is_host(host):\n        raise",
        "    if False:\n        raise",
        test(_REMEDIATION + "TestCheckHost::test_what_is_no_host_is_refused"),
    ),
    Defence(
        "only hosts that are allowed are changed",
        REMEDIATION,
        "if allowed and not any(",
        "if False and not any(",
        test(_REMEDIATION + "TestPermit::test_each_refusal_says_why"),
    ),
    Defence(
        "only actions that are allowed are run",
        REMEDIATION,
        "if action not in config.allowed_actions:",
        "if False:",
        test(_REMEDIATION + "TestPermit::test_each_refusal_says_why"),
    ),
    Defence(
        "a dry run changes nothing",
        REMEDIATION,
        "    elif config.dry_run:\n",
        "    elif False:\n",
        test(_REMEDIATION + "TestPermit::test_dry_run_says_what_it_would_run"),
    ),
    Defence(
        "out of the box it is a dry run",
        CONFIG,
        "dry_run: bool = True",
        "dry_run: bool = False",
        test(_CONFIG + "TestSchema::test_the_defaults_are_the_schemas"),
    ),
    Defence(
        "what is shown in a terminal cannot move its cursor",
        "lib/poundcake/trail/text.py",
        'return "".join(c if c.isprintable() else " " for c in text)',
        "return text",
        test("tests/lib/trail/test_text.py::test_nothing_in_it_moves_the_cursor_or_forges_a_line"),
    ),
    Defence(
        "an id stays within its place in a path of StackStorm's API",
        "lib/poundcake/stackstorm.py",
        "quote(execution_id, safe='')",
        "execution_id",
        test("tests/lib/test_stackstorm.py::test_an_id_stays_in_its_place"),
    ),
]

# Secrets.
SECRETS = [
    Defence(
        "no header with a credential is stored",
        RECEIVER,
        '    "User-Agent",\n    "Content-Type",',
        '    "User-Agent",\n    "Authorization",\n    "Content-Type",',
        test(_RECEIVER + "TestHeaders::test_only_those_on_the_list_are_kept"),
    ),
    Defence(
        "a database's errors do not show its password",
        DATABASE,
        'what = what.replace(str(engine.url.password), "***")',
        "pass",
        test(_DATABASE + "TestRefused::test_the_password_is_masked_wherever_it_is"),
    ),
    Defence(
        "a database's URL does not show its password",
        DATABASE,
        "where = engine.url.render_as_string(hide_password=True)",
        "where = engine.url.render_as_string(hide_password=False)",
        test(_DATABASE + "TestRefused::test_the_password_is_masked_wherever_it_is"),
    ),
    Defence(
        "a database's errors show no row",
        DATABASE,
        'what = " ".join(str(part) for part in error.orig.args) or type(error.orig).__name__',
        "what = str(error)",
        test(_DATABASE + "TestRefused::test_an_error_shows_neither_statement_nor_parameters"),
    ),
    Defence(
        "a configuration that is printed has no secret",
        CONFIG,
        'basic_auth: str = field(default="", repr=False)',
        'basic_auth: str = ""',
        test(_CONFIG + "TestReferences::test_no_secret_is_printed"),
    ),
    Defence(
        "who can read the process list is told of",
        CONFIG,
        "literal.append(spec.name)",
        "pass",
        test(_CONFIG + "TestReferences::test_literal_secrets_are_named"),
    ),
    Defence(
        "the folder of journal and token is not open to the world",
        "lib/poundcake/trail/shared_files.py",
        "os.mkdir(path, 0o770)",
        "os.mkdir(path, 0o777)",
        test("tests/lib/trail/test_shared_files.py::test_a_folder_is_not_open_to_the_world"),
    ),
    Defence(
        "a fault of ours is told without what it was",
        RECEIVER,
        '"detail": "an error of the endpoint itself; its log has it under the request_id",',
        '"detail": __import__("traceback").format_exc(),',
        test(_RECEIVER + "TestOwnTrouble::test_a_fault_of_ours_is_told_without_what_it_was"),
    ),
    Defence(
        "no metric has a label that a client writes",
        RECEIVER,
        "return next(patterns, metrics.OTHER)",
        "return next(patterns, path)",
        test(
            "tests/lib/endpoint/test_metrics.py::TestRequests::test_no_label_takes_what_a_client_sends"
        ),
    ),
]

# Remediations without end.
_ADMISSION, _TRACKING = "tests/lib/trail/test_admission.py::", "tests/lib/trail/test_record.py::"
ONCE = [
    Defence(
        "an alert that fires on starts nothing more",
        "lib/poundcake/trail/admission.py",
        "    if incident.outcome == Outcome.ADMITTED:\n",
        "    if False:\n",
        test(_ADMISSION + "TestFiring::test_a_repeat_is_a_duplicate_with_the_incidents_episode"),
    ),
    Defence(
        "a notification that comes after its resolve starts nothing",
        "lib/poundcake/trail/admission.py",
        "if not superseded and _was_overtaken(starts_at, received_at, situation.resolves):",
        "if False:",
        test(_ADMISSION + "TestFiring::test_a_notification_that_its_resolve_overtook_is_late"),
    ),
    Defence(
        "an alert that comes and goes has its cooldown",
        "lib/poundcake/trail/admission_limits.py",
        "if not self._cooldown or not last or last + self._cooldown <= self._now:",
        "if True:",
        test(
            _TRACKING + "TestLimits::test_a_cooldown_holds_the_alert_back_until_it_ends", "sqlite"
        ),
    ),
    Defence(
        "an alert name has its limit an hour",
        "lib/poundcake/trail/admission_limits.py",
        "if len(times) - bisect.bisect_right(times, self._now - _HOUR) < self._per_hour:",
        "if True:",
        test(
            _TRACKING + "TestLimits::test_a_rate_limit_holds_further_alerts_of_the_name_back",
            "sqlite",
        ),
    ),
    Defence(
        "a host has its cooldown, whatever is wrong with it",
        "lib/poundcake/trail/claims.py",
        "    if claimant.host_cooldown and alert.instance:\n",
        "    if False:\n",
        test(
            "tests/lib/trail/test_claims.py::TestHostCooldown"
            "::test_of_several_at_the_same_time_one_gets_a_claim",
            "sqlite",
        ),
    ),
]

DEFENCES = WHO + BOUNDS + INERT + ONCE + SECRETS
