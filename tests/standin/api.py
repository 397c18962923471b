"""Implement the parts of StackStorm's API that only tests need."""

from __future__ import annotations

from standalone import api, schemas
from standalone.api import ApiError, Response, not_found
from standalone.content import ContentError
from standalone.store import COMPLETED
from tests.standin.executor import USER

# st2common/constants/action.py
STATUSES = (
    "requested scheduled delayed running succeeded failed timeout abandoned canceling canceled"
    " pausing paused resuming pending"
).split()


class Api(api.Api):
    """The API, which can also change executions, answer inquiries, set keys and emit triggers."""

    consumer = None  # set when the stand-in starts

    def __init__(self, content, store, executor):
        super().__init__(content, store, executor)
        self.routes += [
            ("DELETE", r"executions/([^/]+)", self.cancel),
            ("PUT", r"executions/([^/]+)", self.change),
            ("POST", r"executions/([^/]+)/re_run", self.run_again),
            ("PUT", r"inquiries/([^/]+)", self.respond),
            ("POST", r"webhooks/st2", self.emit_trigger),
            ("GET", r"keys/([^/]+)", self.show_key),
            ("PUT", r"keys/([^/]+)", self.store_key),
            ("DELETE", r"keys/([^/]+)", self.delete_key),
            ("GET", r"configs/([^/]+)", self.show_config),
            ("PUT", r"configs/([^/]+)", self.register_config),
        ]

    def run_again(self, request, id_):
        """Run an execution again. Like StackStorm, this renders the stored parameters again."""
        original = self.get_execution(id_)
        parameters = {**original["parameters"], **((request.body or {}).get("parameters") or {})}
        context = {"user": "stanley", "re-run": {"ref": id_}}
        return self.start(original["action"]["ref"], parameters, context)

    def cancel(self, request, id_):
        """Cancel an execution."""
        execution = self.get_execution(id_)
        if execution["status"] == "pending":  # not in LIVEACTION_CANCELABLE_STATES
            raise ApiError(500, "Failed canceling execution.")
        try:
            self.executor.cancel(id_)
        except ValueError as error:
            if execution["status"] != "canceled":
                # StackStorm answers this error with 200.
                raise ApiError(200, str(error)) from error
        return Response(200, self.format_execution(self.get_execution(id_)))

    def change(self, request, id_):
        """Pause, resume or cancel an execution, or set another status.

        See `put` in StackStorm's st2api/controllers/v1/actionexecutions.py.
        """
        status = (request.body or {}).get("status")
        if status not in STATUSES:
            raise ApiError(400, f"status: {status!r} is not one of {', '.join(STATUSES)}")
        if self.get_execution(id_)["status"] in COMPLETED:
            raise ApiError(400, "Execution is already in completed state.")
        if status in ("canceling", "canceled"):
            return self.cancel(request, id_)
        try:
            if status in ("pausing", "paused"):
                self.executor.pause(id_)
            elif status == "resuming":
                self.executor.resume(id_)
            else:
                self.executor.set_status(id_, status, request.body.get("result"))
        except ValueError as error:
            raise ApiError(400, f"Failed updating execution. {error}") from error
        return Response(200, self.format_execution(self.get_execution(id_)))

    def respond(self, request, id_):
        """Answer an inquiry."""
        if self.get_execution(id_)["runner"]["name"] != "inquirer":
            raise not_found("Inquiry", id_)
        response = (request.body or {}).get("response")
        try:
            # StackStorm derives the user from the token. Here, the query or the token of an action
            # contains the user.
            _, _, token_user = request.headers.get("X-Auth-Token", "").partition(":")
            self.executor.respond(id_, response, request.query.get("user") or token_user or USER)
        except PermissionError as error:
            raise ApiError(403, str(error)) from error
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        return Response(200, {"id": id_, "response": response})

    def emit_trigger(self, request):
        """Emit a trigger."""
        trigger, payload = request.body["trigger"], request.body.get("payload") or {}
        if trigger not in self.content.triggers:
            raise ApiError(400, f'Trigger "{trigger}" is not registered')
        try:
            schema = self.content.triggers[trigger].get("payload_schema") or {}
            schemas.check(payload, schema, allow_null=True)
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        tag = request.headers.get("St2-Trace-Tag")
        self.consumer.emit(trigger, payload, {"trace_tag": tag} if tag else {})
        return Response(202, request.body)

    def show_config(self, request, pack):
        """Show the registered configuration of a pack."""
        if pack not in self.content.registered_configs:
            raise not_found("Pack", pack)
        values = self.content.registered_configs[pack]
        if request.query.get("show_secrets") != "true":
            values = dict.fromkeys(values, "********")  # StackStorm masks only the secrets
        return Response(200, {"pack": pack, "values": values})

    def register_config(self, request, pack):
        """Replace the configuration of a pack. The next execution uses it."""
        try:
            self.content.register_config(pack, request.body or {})
        except ContentError as error:
            raise ApiError(400, str(error)) from error
        return self.show_config(request, pack)

    def show_key(self, request, name):
        """Show a key of the datastore."""
        if name not in self.store.keys:
            raise not_found("KeyValuePair", name)
        document = {"id": name, "name": name, "value": self.store.keys[name]}
        return Response(200, {**document, "scope": "st2kv.system"})

    def store_key(self, request, name):
        """Set a key of the datastore."""
        self.store.keys[name] = str((request.body or {}).get("value", ""))
        return self.show_key(request, name)

    def delete_key(self, request, name):
        """Delete a key of the datastore."""
        self.show_key(request, name)  # raises an error if the key does not exist
        del self.store.keys[name]
        return Response(204, None)
