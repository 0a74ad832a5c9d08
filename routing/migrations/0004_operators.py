"""What operators look at: decisions, and incidents that can be voided."""

import allowance.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('routing', '0003_sockets'),
    ]

    operations = [
        migrations.CreateModel(
            name='DecisionRecord',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('job_uuid', models.UUIDField(help_text='A fixed route takes jobs whose uuid is none.', null=True)),
                ('at', models.DateTimeField()),
                ('executor_class', models.CharField(max_length=64)),
                ('seconds', models.FloatField()),
                ('block', models.PositiveBigIntegerField(null=True)),
                ('outcome', models.CharField(max_length=32)),
                ('miner', models.CharField(blank=True, max_length=48, verbose_name='hotkey')),
                ('reservation_id', models.BigIntegerField(null=True, verbose_name='reservation')),
                ('rank', models.PositiveIntegerField(null=True)),
                ('score', models.FloatField(null=True)),
                ('minimum_wei', allowance.fields.WeiField(default=0, verbose_name='least collateral in Wei')),
                ('window_hours', models.FloatField(null=True)),
                ('asked', models.PositiveIntegerField(default=0, verbose_name='candidates')),
                ('counts', models.JSONField(default=dict, help_text='How many candidates failed at each gate.')),
                ('microseconds', models.PositiveBigIntegerField(help_text='Until it was written.')),
                ('waited_us', models.PositiveBigIntegerField(default=0, help_text='microseconds', verbose_name='waited for locks')),
                ('candidates', models.JSONField(null=True)),
            ],
            options={
                'verbose_name': 'decision',
            },
        ),
        migrations.AlterModelOptions(
            name='minerincident',
            options={'permissions': (('route_jobs', 'Can route jobs over the socket'), ('view_metrics', 'Can see the metrics'), ('void_incidents', 'Can void incidents'))},
        ),
        migrations.RemoveIndex(
            model_name='minerincident',
            name='incident_of_class',
        ),
        migrations.RemoveIndex(
            model_name='minerincident',
            name='incident_newest',
        ),
        migrations.AddField(
            model_name='minerincident',
            name='void_reason',
            field=models.CharField(blank=True, max_length=500),
        ),
        migrations.AddField(
            model_name='minerincident',
            name='voided_at',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='minerincident',
            name='voided_by',
            field=models.CharField(blank=True, max_length=150),
        ),
        migrations.AddIndex(
            model_name='minerincident',
            index=models.Index(condition=models.Q(('voided_at', None)), fields=['executor_class', 'timestamp', 'hotkey_ss58address'], name='incident_that_counts'),
        ),
        migrations.AddIndex(
            model_name='minerincident',
            index=models.Index(fields=['-timestamp', 'executor_class', 'type'], name='incident_newest'),
        ),
        migrations.AddConstraint(
            model_name='minerincident',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('void_reason', ''), ('voided_at', None), ('voided_by', '')), models.Q(('voided_at__isnull', False), models.Q(('voided_by', ''), _negated=True), models.Q(('void_reason', ''), _negated=True)), _connector='OR'), name='incident_is_voided_by_somebody_for_a_reason'),
        ),
        migrations.AddIndex(
            model_name='decisionrecord',
            index=models.Index(fields=['-at'], name='decision_newest'),
        ),
        migrations.AddIndex(
            model_name='decisionrecord',
            index=models.Index(fields=['job_uuid'], name='decision_of_job'),
        ),
        migrations.AddIndex(
            model_name='decisionrecord',
            index=models.Index(condition=models.Q(('miner', ''), _negated=True), fields=['miner', '-at'], name='decision_for_miner'),
        ),
        migrations.AddConstraint(
            model_name='decisionrecord',
            constraint=models.CheckConstraint(condition=models.Q(('outcome', ''), _negated=True), name='decision_has_an_outcome'),
        ),
    ]
