# Whatever is due, or falls due, is somebody's: interleavings in which it was nobody's until the next commit or the safety check, which
# is an hour away here. Processes are held in the middle of what they do, and none wakes by itself for a minute.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Underway;
use Waitpoint;

my $node = start_server('lost_wakeups', extension => 1, conf => <<'END');
underway.max_workers = 2
underway.worker_idle_timeout = 1h
# Its alarm would wake who has waited at a waitpoint, later and for nothing.
deadlock_timeout = 10min
END
my ($session, $other, $third) = map { Session->new($node) } 1 .. 3;
$session->value(<<'END');
CREATE ROLE waiter SUPERUSER LOGIN;
ALTER ROLE waiter SET track_counts = off;
CREATE FUNCTION act(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF input ->> 'name' = 'gate' THEN
        PERFORM pg_advisory_xact_lock_shared(1, 1);
    END IF;
END $$;
SELECT underway.create_queue('q', 'act'), underway.create_queue('second', 'act'), underway.create_queue('paused', 'act'), underway.pause_queue('paused');
SELECT underway.create_queue('a'), underway.create_queue('b'), underway.create_queue('narrow', concurrency => 10);
END

sub sleeps { my $kind = shift; return "EXISTS (SELECT FROM pg_stat_activity WHERE $kind AND wait_event_type = 'Extension')" }
sub all_sleep { return sleeps("backend_type = 'underway coordinator' AND state = 'idle'") . " AND NOT EXISTS (SELECT FROM underway_internal.workers() w WHERE w.state <> 'idle')" }
sub is_in { my ($id, $state) = @_; return "(SELECT state = '$state' FROM underway.status('$id'))" }
sub is_due { my $id = shift; return "(SELECT underway_internal.clock() > run_at FROM underway.tasks WHERE id = '$id')" }
sub soon { my ($condition, $name) = @_; local $Test::Builder::Level = $Test::Builder::Level + 1; return ok($session->until($condition, 30), $name) }

# One commit, two queues of one role, and no worker: the one that is started for both has the first for long.
$other->value('SELECT pg_advisory_lock(1, 1)');
my $id = $session->value(q[BEGIN;
SELECT underway.enqueue('second', '{"name": "behind"}', priority => 15);
SELECT underway.enqueue('q', '{"name": "gate"}', priority => 0);
COMMIT]) =~ s/\n.*//sr;
soon(stands(1, 1), 'a worker is started, and busy');
soon(is_in($id, 'succeeded'), '... another one runs what is due in another queue');
disarm($other);
soon(all_sleep(), 'all is done');

# A task falls due after the coordinator has looked for whom to wake, and before it sets its timer, to which everybody has left it.
arm($other, 14);
$id = $session->value(q[SELECT underway.enqueue('q', delay => '500 ms')]);
ok($session->until(held_at(14), 30), 'the coordinator has looked');
ok($session->until("(SELECT underway_internal.clock() > run_at FROM underway.tasks WHERE id = '$id')", 30), 'a task falls due');
disarm($other);
ok($session->until("(SELECT state = 'succeeded' FROM underway.status('$id'))", 30), '... and runs');

# One that falls due before it commits, and in that same moment. It is not handed over.
my $run_at = $session->value("SELECT clock_timestamp() + interval '3 s'");
$id = $third->value("BEGIN;\nSET LOCAL synchronous_commit = off;\nSELECT underway.enqueue('q', run_at => '$run_at')") =~ s/\s//gr;
soon(all_sleep(), 'all sleep');
arm($other, 14);
my $first = $session->value("SELECT underway.enqueue('second', run_at => '$run_at')");
soon(held_at(14), 'the coordinator is told of another that is due then');
let_pass($other, 14);
soon(is_in($first, 'succeeded') . ' AND ' . held_at(14), '... which runs, and it has looked');
$third->value('COMMIT');
disarm($other);
soon(is_in($id, 'succeeded'), '... the one that has committed runs too');

# Locked while somebody looks when it is due, and free before that.
$id = $session->value("SELECT underway.enqueue('q', delay => '3 s')");
$third->value("BEGIN;\nSELECT underway.cancel('$id')");
$session->value('SELECT underway.set_clock(NULL)');
soon(all_sleep() . " AND EXISTS (SELECT FROM underway_internal.databases() d WHERE d.wakes_at > now() + interval '1 min')", 'a task that was locked is unknown');
$third->value('ROLLBACK');
soon(is_in($id, 'succeeded'), '... it runs at its time');

# Cancelled by two-phase commit while it runs.
$other->value('SELECT pg_advisory_lock(1, 1)');
$id = $session->value(q[SELECT underway.enqueue('q', '{"name": "gate"}')]);
soon(stands(1, 1), 'a task runs');
$session->value("BEGIN;\nSELECT underway.cancel('$id');\nPREPARE TRANSACTION 'cancel'");
$session->value("COMMIT PREPARED 'cancel'");
soon(is_in($id, 'cancelled'), '... COMMIT PREPARED cancels it');
disarm($other);

# The coordinator's look fails, after it has taken note that it is to look.
soon(all_sleep(), 'all sleep');
$session->value('ALTER FUNCTION underway_internal.expire(interval, int) RENAME TO away');
$id = $session->value("SELECT underway.enqueue('paused', ttl => '10 ms')");
soon("EXISTS (SELECT FROM underway.check_health() h WHERE h::text ~ 'expire')", 'a task cannot expire');
$session->value('ALTER FUNCTION underway_internal.away(interval, int) RENAME TO expire');
soon(is_in($id, 'failed'), '... it does when what was wrong is mended');

# In the hands of a worker while its queue is paused, and given back when the sweep is through.
$session->value("SELECT underway.create_queue('lapses', 'act', ttl => '1 s')");
soon(all_sleep(), 'all sleep');
my @workers = $session->pids('worker');
kill 'STOP', @workers;
$id = $session->value("SELECT underway.enqueue('lapses')");
ok($session->value('SELECT ' . is_in($id, 'in_progress')) eq 't', 'a task is handed over');
$session->value("SELECT underway.pause_queue('lapses')");
soon(sleeps("backend_type = 'underway coordinator'"), '... its queue is paused');
kill 'CONT', @workers;
soon(is_in($id, 'failed'), '... it is given back and expires');

# In a queue that comes from a copy, beside others that do not, while the timer for it was set without.
$session->value("UPDATE underway_internal.queue q SET home_database = 0 WHERE name = 'paused' RETURNING underway_internal.queue_changed(q.id)");
$id = $session->value("SELECT underway.enqueue('paused', ttl => '10 ms')");
soon("(SELECT underway_internal.clock() > expires_at FROM underway_internal.task WHERE id = '$id') AND " . all_sleep(), 'a task of a held queue outlives its time');
is($session->value('SELECT underway.adopt()'), 1, '... it is adopted');
soon(is_in($id, 'failed'), '... and expires');

# A task of a queue that is dropped meanwhile, and which a client has locked: whoever ends it waits for the client, and does nothing else.
$session->value("SELECT underway.create_queue('gone')");
$id = $other->value("BEGIN;\nSELECT underway.enqueue('gone')") =~ s/\s//gr;
$session->value("SELECT underway.drop_queue('gone', force => true)");
arm($session, 14);
$other->value('COMMIT');
soon(held_at(14), 'a task comes into a queue that was dropped');
is($third->value("BEGIN;\nSELECT underway.cancel('$id')") =~ s/\s//gr, 'cancelled', '... a client cancels it');
disarm($session);
soon(all_sleep(), '... and has not committed');
my $transactions = $session->value('SELECT transactions FROM underway_internal.counters()');
$session->value('SELECT 1') for 1 .. 500;
is($session->value('SELECT transactions FROM underway_internal.counters()'), $transactions, '... nobody looks at it again meanwhile');
$third->value('ROLLBACK');
soon(is_in($id, 'failed'), '... until it is free');

# A client that waits for work; returns its process, too. The statistics of its last statement would
# wake it for nothing, 10 s after that, if it kept any.
sub waits_for
{
    my ($queues, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $client = Session->new($node, user => 'waiter');
    my $call = "CALL underway.wait_for_work('{$queues}', '10 min')";
    $client->send($call);
    my $is_it = 'query LIKE $$' . $call . '%$$';
    soon(sleeps($is_it), $name);
    return ($client, $session->value("SELECT pid FROM pg_stat_activity WHERE $is_it"));
}

sub hears
{
    my ($client, $process, $queue, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    soon("(SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $process)", $name) or return;
    return is($client->receive, $queue, '... which is the queue');
}

# It looks while somebody dequeues who does not know yet whether there is a place.
$session->value("SELECT underway.enqueue('narrow') FROM generate_series(1, 3)");
my $pid = $third->value('SELECT pg_backend_pid()');
$other->value("BEGIN;\nSELECT count(*) FROM underway.dequeue('narrow')");
$third->send("SELECT count(*) FROM underway.dequeue('narrow')");
soon("EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid AND wait_event_type = 'Lock')", 'somebody dequeues');
my ($waiter, $backend) = waits_for('narrow', '... another waits meanwhile');
$other->value('COMMIT');
is($third->receive, 1, '... the first one gets his task');
hears($waiter, $backend, 'narrow', '... and the other hears that there is one more');

# Told of work in one queue, it finds some in another first.
(my $of_two, $backend) = waits_for('b,a', 'one waits for work of two queues');
my ($of_one, $backend_of_one) = waits_for('a', '... another of one');
kill 'STOP', $backend;
$session->value("SELECT underway.enqueue('a')");
$session->value("SELECT underway.enqueue('b')");
kill 'CONT', $backend;
hears($of_two, $backend, 'b', 'the one takes up what is first in its list');
hears($of_one, $backend_of_one, 'a', '... the other hears of the rest');

$_->close for $session, $other, $third, $waiter, $of_two, $of_one;
$node->stop;
done_testing;
