# A standby runs nothing and refuses what would change it. After promotion what ran on the old primary runs on the new one at once;
# leases that it knows stand, and one that never came to it is lost.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Underway;

my $primary = start_server('primary', extension => 1, init => { allows_streaming => 1 }, conf => "underway.max_workers = 3\n");
my $old = Session->new($primary);
$old->value(<<'END');
CREATE TABLE effect (task uuid);
-- Held on the primary, where the test has the lock.
CREATE FUNCTION held(jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (underway.task_id());
    PERFORM pg_advisory_xact_lock_shared(1);
END $$;
SELECT underway.create_queue('held', 'held'), underway.create_queue('outside', heartbeat => '1 h');
SELECT pg_advisory_lock(1);
END
$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->start;

$old->value("SELECT count(underway.enqueue('held')) FROM generate_series(1, 5)");
$old->value("SELECT count(underway.enqueue('outside')) FROM generate_series(1, 2)");
ok $old->until("(SELECT count(*) = 3 FROM pg_stat_activity WHERE backend_type = 'underway worker' AND wait_event = 'advisory')"),
  'three of five tasks run';
my $known = $old->value("SELECT lease FROM underway.dequeue('outside')");
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));

my $new = Session->new($standby);
is $new->value("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'underway%'"), 0, 'none of our processes is on the standby';
for my $statement ("underway.enqueue('held')", "underway.enqueue_many('held', ARRAY['{}'::jsonb])", "underway.dequeue('outside')", "underway.heartbeat('$known')",
    "underway.complete('$known')", "underway.cancel((SELECT id FROM underway.tasks LIMIT 1))", "underway.pause_queue('held')")
{
    $new->query("SELECT $statement");
    is $new->state, '25006', "$statement: refused" or diag $new->answer;
}
is $new->value("SELECT state, count(*) FROM underway.tasks WHERE queue = 'held' GROUP BY 1 ORDER BY 1"), "in_progress|3\npending|2", 'views and';
like $new->value("SELECT underway.why(id) FROM underway.tasks WHERE queue = 'held' AND state = 'pending' LIMIT 1"), qr/standby/, 'why() answer';

# Cut off: what the primary does from now on is lost.
$standby->append_conf('postgresql.conf', "primary_conninfo = ''\n");
$standby->reload;
$new->until('NOT EXISTS (SELECT FROM pg_stat_wal_receiver)') or die 'still streaming';
my $unknown = $old->value("SELECT lease FROM underway.dequeue('outside')");
isnt $unknown, '', 'a lease that the standby never hears of';
$old->close;
$primary->stop('immediate');

$standby->promote;
ok $new->until("(SELECT count(*) = 5 FROM underway.tasks WHERE queue = 'held' AND state = 'succeeded')"), 'everything ran on the new primary'
  or diag $new->query("SELECT id, state, attempt, underway.why(id) FROM underway.tasks WHERE queue = 'held'");
is $new->value('SELECT count(*), count(DISTINCT task) FROM effect'), '5|5', 'each effect is there once';
is $new->value("SELECT outcome, count(*) FROM underway.attempts WHERE queue = 'held' GROUP BY 1 ORDER BY 1"), "lost|3\nsucceeded|5",
  'what was in progress was reclaimed';
is $new->value("SELECT max(failures), max(losses + crashes) FROM underway.tasks WHERE queue = 'held'"), '0|1', 'no attempt was used';
is $new->value("SELECT max(a.started_at) - (SELECT pg_postmaster_start_time()) < interval '1 h' AND bool_and(a.started_at < b.ended_at + interval '5 s') FROM underway.attempts a JOIN underway.attempts b USING (task_id) WHERE a.attempt = 2 AND b.attempt = 1"),
  't', 'at once';

is $new->value("SELECT underway.heartbeat('$known')"), 'ok', 'the lease that came over stands';
is $new->value("SELECT underway.complete('$known')"), 'succeeded', 'and completes';
is $new->value("SELECT underway.heartbeat('$unknown')"), 'lost', 'the other is lost';
$new->query("BEGIN;\nINSERT INTO effect VALUES (gen_random_uuid());\nSELECT underway.complete('$unknown');\nCOMMIT");
is $new->value('SELECT count(*) FROM effect'), 5, 'and commits nothing';
like $new->query("SELECT underway.complete('$unknown')"), qr/stands for no task/, 'it says why';
is $new->state, 'UW001', 'with its own SQLSTATE';
is $new->value("SELECT count(*) FROM underway.dequeue('outside')"), 1, 'its task is there to be taken';

# The new primary goes on as any other.
my $id = $new->value("SELECT underway.enqueue('held')");
ok $new->until("(SELECT state = 'succeeded' FROM underway.status('$id'))"), 'new work runs';
unlike slurp_file($standby->logfile), qr/underway (launcher|worker|coordinator) (ERROR|FATAL)/, 'none of our processes failed';

$new->close;
$standby->stop;
done_testing;
