from pack_action import PackAction
from poundcake import database, schema


class Migrate(PackAction):
    def work(self):
        engine = self.engine()
        database_id = database.prepare(engine, create=True)
        return {
            "database": database.kind(engine),
            "database_id": database_id,
            "schema": schema.VERSION,
        }
