"""Find the reservations that ended lately. Who reserves does not touch this index; who ends one does."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('allowance', '0003_ledger_check'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='reservation',
            index=models.Index(condition=models.Q(('ended_at__isnull', False)), fields=['ended_at'], name='reservation_ended'),
        ),
    ]
