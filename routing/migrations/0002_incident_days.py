"""Tell PostgreSQL on how many days its incidents lie: else it takes each for a day of its own, and goes a slow way."""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

CREATE = """
    CREATE STATISTICS incident_days ON (date_bin('1 day', "timestamp", '1970-01-01 00:00+00'))
    FROM routing_minerincident
"""


def create(apps: object, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == 'postgresql':
        schema_editor.execute(CREATE)


def drop(apps: object, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == 'postgresql':
        schema_editor.execute('DROP STATISTICS incident_days')


class Migration(migrations.Migration):

    dependencies = [
        ('routing', '0001_initial'),
    ]

    operations = [
        migrations.RunPython(create, drop),
    ]
