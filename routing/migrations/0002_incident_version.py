from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

import allowance.models


def give_versions(apps: Apps, _schema_editor: BaseDatabaseSchemaEditor) -> None:
    """A class without a version counts as one without incidents."""
    incidents = apps.get_model("routing", "MinerIncident").objects
    version = apps.get_model("routing", "IncidentVersion")
    classes = incidents.order_by().values_list("executor_class", flat=True).distinct()
    version.objects.bulk_create([version(executor_class=executor_class) for executor_class in classes])


class Migration(migrations.Migration):
    dependencies = [
        ("routing", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="IncidentVersion",
            fields=[
                ("executor_class", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("version", models.BigIntegerField(default=allowance.models.new_version)),
            ],
        ),
        migrations.RunPython(give_versions, migrations.RunPython.noop),
    ]
