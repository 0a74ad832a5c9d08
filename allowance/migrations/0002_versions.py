"""Versions, by which routers know what is new to them. Code from before writes without drawing any: stop it first."""

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

import allowance.models


def draw_versions(apps: Apps, _schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Give each account one of its own; adding the column gave all the same."""
    accounts = apps.get_model("allowance", "Account").objects
    for pk in accounts.values_list("pk", flat=True):
        accounts.filter(pk=pk).update(version=allowance.models.new_version())


class Migration(migrations.Migration):
    dependencies = [
        ("allowance", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="chainlock",
            name="version",
            field=models.BigIntegerField(default=allowance.models.new_version),
        ),
        migrations.AddField(
            model_name="account",
            name="version",
            field=models.BigIntegerField(default=allowance.models.new_version, editable=False),
        ),
        migrations.RunPython(draw_versions, migrations.RunPython.noop),
    ]
