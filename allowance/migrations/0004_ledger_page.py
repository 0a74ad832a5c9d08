"""What the page of the ledger is found by. On PostgreSQL a reservation pays next to nothing for either index."""

import django.contrib.postgres.indexes
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('allowance', '0003_ledger_check'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='reservation',
            index=django.contrib.postgres.indexes.BrinIndex(fields=['created_at'], name='reservation_by_time'),
        ),
        migrations.AddIndex(
            model_name='reservation',
            index=models.Index(condition=models.Q(('state', 'lapsed')), fields=['-expires_at'], name='reservation_lapsed'),
        ),
    ]
