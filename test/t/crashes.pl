# Handlers that crash the server are given up after three crashes, and nothing else is; exits that a handler brings on itself count
# as crashes, terminations by others do not; handlers that do not listen to cancel or timeout are terminated.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Underway;

my $folder = PostgreSQL::Test::Utils::tempdir();
my ($include) = run_command([ 'pg_config', '--includedir-server' ]);
command_ok([ $ENV{CC} // 'cc', '-shared', '-fPIC', '-O0', '-w', "-I$include", '-o', "$folder/crash.so", "$FindBin::RealBin/crash.c" ],
    'the handlers in C are built');

my $node = start_server('crashes', extension => 1, conf => <<'END');
underway.max_workers = 4
underway.cancel_grace = '100 ms'
END
my $session = Session->new($node);
$session->value(<<"END");
CREATE FUNCTION crash(jsonb) RETURNS void LANGUAGE c AS '$folder/crash';
CREATE FUNCTION deaf(jsonb) RETURNS void LANGUAGE c AS '$folder/crash';
CREATE FUNCTION quick(jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION brief(jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(random() * 0.004)';
CREATE FUNCTION slow(jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(1.5)';
CREATE FUNCTION leave(jsonb) RETURNS bool LANGUAGE sql AS 'SELECT pg_terminate_backend(pg_backend_pid())';
-- Waits for an advisory lock that the test holds.
CREATE FUNCTION held(jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_xact_lock_shared(1)';
-- Catches whatever interrupts it.
CREATE FUNCTION stubborn(jsonb) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
    LOOP
        BEGIN
            PERFORM pg_sleep(0.01);
        EXCEPTION WHEN query_canceled THEN NULL;
        END;
    END LOOP;
END \$\$;
SELECT underway.create_queue('letters');
SELECT underway.create_queue(name, name, dead_letter => 'letters') FROM unnest('{crash,quick,brief,slow,leave,held,deaf,stubborn}'::text[]) name;
END

# At the same time: one that crashes, long ones that always meet its crashes, and short ones in two transactions.
$session->value(<<'END');
BEGIN;
SELECT count(underway.enqueue('slow')) FROM generate_series(1, 3);
SELECT count(underway.enqueue_many('quick', array_fill('{}'::jsonb, ARRAY[300])));
SELECT underway.enqueue('crash');
SELECT count(underway.enqueue_many('quick', array_fill('{}'::jsonb, ARRAY[300])));
COMMIT;
END
ok $session->until("NOT EXISTS (SELECT FROM underway.tasks WHERE queue IN ('crash', 'slow', 'quick') AND state IN ('pending', 'in_progress'))"),
  'all have ended' or diag $session->query("SELECT queue, state, attempt, crashes, losses, underway.why(id) FROM underway.tasks WHERE state NOT IN ('succeeded', 'failed')");
is $session->value("SELECT state, reason, crashes, failures, error FROM underway.tasks WHERE queue = 'crash'"),
  'failed|crashes|3|0|the server went down uncleanly during this attempt', 'the one that crashes was given up after three crashes';
is $session->value("SELECT count(*) FROM underway.tasks WHERE queue = 'letters' AND headers #>> '{dead_letter,queue}' = 'crash'"), 1,
  'and dead-lettered';
is $session->value("SELECT queue, count(*) FROM underway.tasks WHERE queue IN ('slow', 'quick') AND state = 'succeeded' GROUP BY 1 ORDER BY 1"),
  "quick|600\nslow|3", 'everything else succeeded';
is $session->value("SELECT max(attempt) <= 4 AND max(crashes) < 3 FROM underway.tasks WHERE queue = 'slow'"), 't',
  'the long ones were not begun again and again'
  or diag $session->query("SELECT attempt, crashes FROM underway.tasks WHERE queue = 'slow'");

# By itself: with backoff, and with an end.
my $leaving = $session->value("SELECT underway.enqueue('leave')");
ok $session->until("(SELECT state = 'failed' FROM underway.status('$leaving'))"), 'one that ends its own worker ends';
is $session->value("SELECT reason, crashes, losses, failures, attempt FROM underway.tasks WHERE id = '$leaving'"), 'crashes|3|0|0|3',
  'after three crashes of its worker';
is $session->value("SELECT string_agg(outcome, ' ' ORDER BY attempt), bool_and(error ~ 'ended while the handler ran') FROM underway.attempts WHERE task_id = '$leaving'"),
  'lost lost failed|t', 'each is recorded';
is $session->value("SELECT min(next - started_at) >= '1 s' FROM (SELECT started_at, lead(started_at) OVER (ORDER BY attempt) AS next FROM underway.attempts WHERE task_id = '$leaving') x"),
  't', 'with a pause in between';

# By others: as often as they like.
$session->value('SELECT pg_advisory_lock(1)');
my $held = $session->value("SELECT underway.enqueue('held')");
for my $n (1 .. 5)
{
    $session->until("(SELECT attempt = $n AND state = 'in_progress' FROM underway.status('$held')) AND EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'underway worker' AND wait_event = 'advisory')")
      or die 'it does not run';
    $session->value("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'underway worker' AND wait_event = 'advisory'");
}
ok $session->until("(SELECT attempt = 6 AND state = 'in_progress' FROM underway.status('$held'))"), 'it goes on after its worker was terminated five times';
$session->value('SELECT pg_advisory_unlock(1)');
ok $session->until("(SELECT state = 'succeeded' FROM underway.status('$held'))"), 'and succeeds';
is $session->value("SELECT crashes, losses, failures FROM underway.tasks WHERE id = '$held'"), '0|5|0', 'nothing was charged';

# Too long, and goes on: a failure, retried as any other.
for my $name (qw(stubborn deaf))
{
    my $id = $session->value("SELECT underway.enqueue('$name', timeout => '50 ms', retry => underway.retry_policy(max_attempts => 2, initial_interval => '10 ms'))");
    ok $session->until("(SELECT state = 'failed' FROM underway.status('$id'))"), "$name, over its time: ends";
    is $session->value("SELECT failures, crashes, losses, sqlstate FROM underway.tasks WHERE id = '$id'"), '2|0|0|57014', "$name: two failures";
    $id = $session->value("SELECT underway.enqueue('$name')");
    $session->until("(SELECT state = 'in_progress' FROM underway.status('$id'))") or die 'it does not run';
    $session->value("SELECT underway.cancel('$id', 'enough')");
    ok $session->until("(SELECT state = 'cancelled' FROM underway.status('$id'))"), "$name, cancelled: ends";
    is $session->value("SELECT failures, crashes, attempt FROM underway.tasks WHERE id = '$id'"), '0|0|1', "$name: nothing else";
}

# Cancelled when its worker is gone and nobody has noticed: there is nobody to interrupt, least of all who cancels. The coordinator is asleep
# meanwhile.
my $asleep;
END { kill 'CONT', $asleep if $asleep }
$session->value('SELECT pg_advisory_lock(1)');
my $orphan = $session->value("SELECT underway.enqueue('held')");
$session->until("EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'underway worker' AND wait_event = 'advisory')") or die 'it does not run';
($asleep) = $session->pids('coordinator');
kill 'STOP', $asleep;
$session->value("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'underway worker' AND wait_event = 'advisory'");
ok $session->until("NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'underway worker' AND wait_event = 'advisory')"), 'a worker is gone';
# An interrupt would come with the commit, and between two statements the server ignores it: so that is in the middle of one.
is $session->query("DO \$\$ BEGIN PERFORM underway.cancel('$orphan'); COMMIT; PERFORM 1; END \$\$; SELECT 'unharmed'"), 'unharmed', 'who cancels its task goes on';
kill 'CONT', $asleep;
undef $asleep;
ok $session->until("(SELECT state = 'cancelled' FROM underway.status('$orphan'))"), 'it ends cancelled';
$session->value('SELECT pg_advisory_unlock(1)');

# Cancels that come late hit neither our own statements nor the next task.
$session->value("SELECT count(underway.enqueue_many('brief', array_fill('{}'::jsonb, ARRAY[1000])))");
my $cancelled = 0;
for (1 .. 100000)
{
    last unless $session->value("SELECT count(*) FROM underway_internal.task t JOIN underway_internal.queue q ON q.id = t.queue_id AND q.name = 'brief'");
    $session->query('SELECT underway.cancel(task_id) FROM underway_internal.workers() WHERE task_id IS NOT NULL');
    $cancelled++ if $session->state eq '00000' and $session->answer ne '';
}
note "$cancelled rounds of cancels";
ok $session->until("NOT EXISTS (SELECT FROM underway.tasks WHERE queue = 'brief' AND state NOT IN ('succeeded', 'cancelled'))"),
  'tasks that are cancelled as they end succeed or are cancelled, and nothing else fails'
  or diag $session->query("SELECT id, state, error, underway.why(id) FROM underway.tasks WHERE queue = 'brief' AND state NOT IN ('succeeded', 'cancelled') LIMIT 5");
is $session->value('SELECT count(*) FROM underway_internal.cancel_request'), 0, 'no request is left'
  if $session->until('NOT EXISTS (SELECT FROM underway_internal.cancel_request)');
unlike slurp_file($node->logfile), qr/underway (worker|coordinator) ERROR/, 'none of our processes failed';

$session->close;
$node->stop;
done_testing;
