from django.db import migrations, models

import allowance.models


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
    ]
