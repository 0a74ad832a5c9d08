"""What checks of the ledger found."""

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
            options={
                'indexes': [models.Index(fields=['-at'], name='ledger_check_newest')],
            },
        ),
    ]
