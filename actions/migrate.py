from pack_action import PackAction
from poundcake.trail import database, schema


class Migrate(PackAction):
    def work(self):
        engine = self.engine()
        steps = database.migrate(engine, self.logger.info)
        return {
            "database": database.kind(engine),
            "database_id": database.prepare(engine, create=False),
            "schema": schema.VERSION,
            "steps": steps,
        }
