"""What checks of the ledger found; and reservations that ended lately, which no index finds that picks write to."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('allowance', '0002_versions'),
    ]

    operations = [
        migrations.CreateModel(
            name='LedgerCheck',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('at', models.DateTimeField()),
                ('seconds', models.FloatField(help_text='How long it took.')),
                ('accounts', models.PositiveIntegerField()),
                ('reservations', models.PositiveBigIntegerField()),
                ('differences', models.PositiveIntegerField()),
                ('left', models.PositiveIntegerField(help_text='Differences after the repair, if there was one.')),
                ('repaired', models.BooleanField(default=False)),
                ('examples', models.JSONField(default=list)),
            ],
        ),
        migrations.AddIndex(
            model_name='reservation',
            index=models.Index(condition=models.Q(('ended_at__isnull', False)), fields=['ended_at'], name='reservation_ended'),
        ),
        migrations.AddIndex(
            model_name='reservation',
            index=models.Index(condition=models.Q(('state', 'lapsed')), fields=['-expires_at'], name='reservation_lapsed'),
        ),
        migrations.AddIndex(
            model_name='ledgercheck',
            index=models.Index(fields=['-at'], name='ledger_check_newest'),
        ),
    ]
