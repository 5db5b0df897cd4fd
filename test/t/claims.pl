# Claims and what surrounds them, one by one: flushed before the work begins, however lazily work commits; surveys, tasks that are
# taken back from a slow worker, more claims at once than there is room for, several who wait for one task.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use List::Util qw(sum);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Underway;
use Waitpoint;

my $node = start_server('claims', extension => 1, conf => <<'END');
max_connections = 50
max_prepared_transactions = 2
underway.max_workers = 2
# What is flushed was flushed for a reason.
synchronous_commit = off
wal_writer_delay = 10s
END
my $session = Session->new($node);
my $other = Session->new($node);
$session->value(<<'END');
CREATE EXTENSION pg_walinspect;
CREATE TABLE ran (name text, pid int DEFAULT pg_backend_pid());
CREATE FUNCTION act(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF input ->> 'name' = 'gate' THEN
        PERFORM pg_advisory_xact_lock_shared(1, 1);
    END IF;
    INSERT INTO public.ran VALUES (input ->> 'name');
END $$;
END

sub idle { return "NOT EXISTS (SELECT FROM underway_internal.workers() w WHERE w.state <> 'idle')" }

# A survey that has looked already, and a task that commits before it says what it saw. The queue is paused: no worker looks.
$session->value("SELECT underway.create_queue('surveyed', 'act'), underway.pause_queue('surveyed')");
ok($session->until(idle()), 'everybody sleeps');
arm($other, 5);
$session->value('SELECT underway.set_clock(NULL)');
ok($session->until(held_at(5)), 'the coordinator has looked');
$session->value(q[SELECT underway.enqueue('surveyed', '{"name": "late"}')]);
disarm($other);
$session->value("SELECT underway.resume_queue('surveyed')");
ok($session->until(q[EXISTS (SELECT FROM ran WHERE name = 'late')], 30), 'a task that a survey could not see runs');

# Flushed.
$session->value(<<'END');
CREATE TABLE seen (claim xid, flushed pg_lsn);
CREATE FUNCTION look() RETURNS void LANGUAGE sql AS $$
    INSERT INTO public.seen SELECT t.xmin, pg_current_wal_flush_lsn() FROM underway_internal.task t WHERE t.id = underway.task_id()
$$;
SELECT underway.create_queue('lazy', 'look', durability => 'async');
SELECT underway.create_queue('lazy by role', 'look', settings => '{"synchronous_commit": "off"}');
END
my $start = $session->value('SELECT pg_current_wal_insert_lsn()');
for my $queue ('lazy', 'lazy by role')
{
    $session->value("SELECT underway.enqueue('$queue') FROM generate_series(1, 5)");
}
ok($session->until('10 = (SELECT count(*) FROM seen)', 30), 'tasks of lazy queues run');
# Everything up to here, so that it can be read.
$session->value('SET synchronous_commit = on; SELECT pg_logical_emit_message(true, $$$$, $$$$)');
is( $session->value("SELECT count(*) FROM seen s JOIN pg_get_wal_records_info('$start', pg_current_wal_flush_lsn()) w"
          . " ON w.xid = s.claim AND w.resource_manager = 'Transaction' AND w.record_type ~ '^COMMIT' AND w.end_lsn <= s.flushed"),
    10, 'each claim stood in the flushed WAL when its handler began');

# So is the end of a task that was running at a crash, well or not: the next crash must not be charged to it.
$session->value(<<'END');
CREATE FUNCTION may_fail(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(1 / (input ->> 0)::int)';
SELECT underway.create_queue('suspect', 'may_fail', durability => 'async', retry => underway.retry_policy(max_attempts => 1));
END
for my $divisor (1, 0)
{
    $session->value("SELECT underway.pause_queue('suspect')");
    my $suspect = $session->value("SELECT underway.enqueue('suspect', '[$divisor]')");
    $session->value("UPDATE underway_internal.task SET crashes = 1 WHERE id = '$suspect'");
    $start = $session->value('SELECT pg_current_wal_insert_lsn()');
    $session->value("SELECT underway.resume_queue('suspect')");
    ok($session->until("(SELECT state IN ('succeeded', 'failed') FROM underway.status('$suspect'))", 30), 'a suspect ends');
    my $flushed = $session->value('SELECT pg_current_wal_flush_lsn()');
    $session->value('SET synchronous_commit = on; SELECT pg_logical_emit_message(true, $$$$, $$$$)');
    is( $session->value("SELECT count(*) FROM underway_internal.archive a JOIN pg_get_wal_records_info('$start', pg_current_wal_flush_lsn()) w"
              . " ON w.xid = a.xmin AND w.resource_manager = 'Transaction' AND w.record_type ~ '^COMMIT' AND w.end_lsn <= '$flushed'"
              . " WHERE a.id = '$suspect'"),
        1, 'its end stands in the flushed WAL');
}
$session->value('RESET synchronous_commit');

# The coordinator sleeps through what comes now.
my $asleep;
sub wake { kill 'CONT', $asleep if $asleep; $asleep = undef }
END { wake() }

# Only while it waits: stopped at work, it may hold what others need.
sub sleep_coordinator
{
    wake();
    my ($coordinator) = $session->pids('coordinator');
    my $waits = "(SELECT wait_event_type = 'Extension' FROM pg_stat_get_activity($coordinator))";
    while ($session->until($waits))
    {
        $asleep = $coordinator;
        kill 'STOP', $asleep;
        select undef, undef, undef, 0.001 until slurp_file("/proc/$asleep/stat") =~ /\) T/;
        return if $session->value("SELECT $waits") eq 't';
        wake();
    }
    return;
}

# A worker that claims a queue's first task takes no more than one. When it was the last one due, nobody else is woken for it.
$session->value("SELECT underway.create_queue(q, 'act') FROM unnest('{two,last}'::text[]) q");
$other->value('SELECT pg_advisory_lock(1, 1)');
$session->value(q[SELECT underway.enqueue('two', '{"name": "gate"}') FROM generate_series(1, 2)]);
ok($session->until("2 = (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1 AND objid = 1 AND NOT granted)", 30), 'there are two workers');
disarm($other);
ok($session->until('NOT EXISTS (SELECT FROM underway_internal.task) AND ' . idle(), 30), 'they sleep');
sleep_coordinator();
$other->value('SELECT pg_advisory_lock(1, 1)');
my %slept = split /[|\n]/, $session->value("SELECT pid, state_change FROM pg_stat_activity WHERE backend_type = 'underway worker'");
$session->value(q[SELECT underway.enqueue('last', '{"name": "gate"}'), underway.enqueue('last', '{"name": "late"}', '1 day')]);
ok($session->until(stands(1, 1), 30), 'one has the only task that is due');
disarm($other);
ok($session->until(q[(SELECT count(*) = 1 FROM underway_internal.task) AND ] . idle(), 30), 'and ends it');
my %sleeps = split /[|\n]/, $session->value("SELECT pid, state_change FROM pg_stat_activity WHERE backend_type = 'underway worker'");
is(scalar(grep { $sleeps{$_} eq $slept{$_} } keys %sleeps), 1, 'the other has slept all the while');
wake();
$session->value('SELECT underway.set_clock(underway_internal.clock() + $$1 day$$)');
ok($session->until('NOT EXISTS (SELECT FROM underway_internal.task)', 30), 'what the claim saw coming runs at its time');
$session->value('SELECT underway.set_clock(NULL)');

# A worker that is slow with one task gives those up that it holds behind it. So that there is one that knows how quick these tasks
# are, and takes several, it is alone at first; the gate of the first task is closed.
$session->value("SELECT underway.create_queue('many', 'act')");

sub workers
{
    my $n = shift;
    $session->value("ALTER SYSTEM SET underway.max_workers = $n");
    $session->value('SELECT pg_reload_conf()');
    return;
}

# Until a worker has claimed several; it may have been slow itself, on a busy machine.
# then: just before the tasks come that it claims.
sub close_gate
{
    my ($point, $then) = @_;
    for my $try (1 .. 20)
    {
        wake();
        workers(1);
        my ($one, @others) = $session->pids('worker');
        $session->value("SELECT pg_terminate_backend($_)") for @others;
        $session->value(q[SELECT underway.enqueue_many('many', array_fill('{"name": "quick"}'::jsonb, ARRAY[200]))]);
        $session->until("NOT EXISTS (SELECT FROM underway_internal.task) AND " . idle(), 30) or return 0;
        $session->value('TRUNCATE ran');
        arm($other, $point);
        $other->value('SELECT pg_advisory_lock(1, 1)');
        $then->() if $then;
        $session->value(q[SELECT underway.enqueue_many('many', array_prepend('{"name": "gate"}'::jsonb,
            array_fill('{"name": "behind"}'::jsonb, ARRAY[40])))]);
        $session->until(stands(1, 1), 30) or return 0;
        return 1 if $session->value("SELECT count(*) > 1 FROM underway_internal.task WHERE state = 'in_progress'") eq 't';
        disarm($other);
    }
    return 0;
}

sub behind { return q[(40 = (SELECT count(*) FROM ran WHERE name = 'behind'))] }

ok(close_gate(6), 'a worker is slow, and holds others');
ok($session->until(held_at(6), 30), 'the coordinator takes them');
workers(2);
$other->value('SELECT underway_internal.arm_waitpoints(0), pg_advisory_unlock(7867, 6)');
ok($session->until(behind(), 30), 'they run elsewhere');
is($session->value("SELECT state FROM underway.tasks WHERE queue = 'many' AND input ->> 'name' = 'gate' ORDER BY id DESC LIMIT 1"), 'in_progress', 'while it is slow');
disarm($other);
ok($session->until("NOT EXISTS (SELECT FROM underway_internal.task)", 30), 'the slow one ends');
is($session->value("SELECT DISTINCT state || ' ' || attempt FROM underway.tasks WHERE queue = 'many'"), 'succeeded 1', 'nothing used an attempt for that');

# The worker is terminated before anybody takes them: what it had not begun is given back as if it had never been claimed. The
# coordinator is asleep meanwhile, so that it cannot be quicker.
ok( close_gate(
        20,
        \&sleep_coordinator),
    'a worker holds others');
my $terminated = $session->value("SELECT pid FROM underway_internal.workers() w WHERE w.task_id = (SELECT id FROM underway.tasks WHERE queue = 'many' AND input ->> 'name' = 'gate' AND state = 'in_progress')");
$session->value("SELECT pg_terminate_backend($terminated)");
ok($session->until("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $terminated)"), 'it is gone');
wake();
disarm($other);
ok($session->until(behind() . ' AND NOT EXISTS (SELECT FROM underway_internal.task)', 30), 'all go on');
is($session->value("SELECT input ->> 'name', max(attempt), sum(losses) FROM underway.tasks WHERE queue = 'many' AND (attempt > 1 OR losses > 0) GROUP BY 1"),
    'gate|2|1', 'an attempt was lost of what had begun, and of nothing else');

# A worker that is to leave does so at the end of its task, and gives back the others itself, at once.
ok( close_gate(
        20,
        \&sleep_coordinator),
    'a worker holds others again');
my ($leaving) = $session->pids('worker');
$session->value('ALTER ROLE CURRENT_USER SET work_mem = $$5MB$$');
disarm($other);
ok($session->until("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $leaving)"), 'it leaves');
is($session->value("SELECT (SELECT string_agg(name, ' ') FROM ran), (SELECT string_agg(DISTINCT concat_ws(' ', state, attempt), ', ') FROM underway_internal.task)"),
    'gate|pending 0', 'when it has ended what it had begun, and nothing else');
wake();
ok($session->until(behind() . ' AND NOT EXISTS (SELECT FROM underway_internal.task)', 30), 'the others run elsewhere');
is($session->value("SELECT count(*) FROM underway.tasks WHERE queue = 'many' AND (attempt > 1 OR losses > 0) AND id IN (SELECT id FROM underway.tasks ORDER BY enqueued_at DESC LIMIT 41)"),
    0, 'and nothing was lost');
$session->value('ALTER ROLE CURRENT_USER RESET work_mem');

# What is cancelled while its worker is busy with another does not begin, however late the coordinator is.
ok( close_gate(
        20,
        \&sleep_coordinator),
    'and once more');
my $cancelled = $session->value("SELECT id FROM underway_internal.task WHERE state = 'in_progress' AND input ->> 'name' = 'behind' ORDER BY id LIMIT 1");
is($session->value("SELECT underway.cancel('$cancelled')"), 'in_progress', 'one that has not begun is cancelled');
disarm($other);
ok($session->until("(SELECT state = 'cancelled' FROM underway.status('$cancelled'))", 30), 'it ends cancelled');
ok($session->until(q[(39 = (SELECT count(*) FROM ran WHERE name = 'behind'))], 30), '... and the others run');
wake();
ok($session->until("NOT EXISTS (SELECT FROM underway_internal.task)", 30), '... to the last');

# The coordinator does not live to give them back: they go on when the worker is gone.
ok(close_gate(6), 'once more');
ok($session->until(held_at(6), 30), 'the coordinator takes them');
my ($coordinator) = $session->pids('coordinator');
$session->value("SELECT underway_internal.arm_waitpoints(0), pg_terminate_backend($coordinator)");
ok($session->until("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $coordinator)"), 'the coordinator is gone');
disarm($other);
ok($session->until(behind(), 30), 'what it took runs nevertheless');
ok($session->until("NOT EXISTS (SELECT FROM underway_internal.task)", 30), 'nothing is left');

# Of an index, by a statement; to be called in a transaction.
sub entries_read
{
    my ($index, $statement) = @_;
    my $read = "SELECT pg_stat_get_xact_tuples_returned('underway_internal.$index'::regclass)";
    my $before = $session->value($read);
    $session->value($statement);
    return $session->value($read) - $before;
}

# While somebody holds an old snapshot, the table seems nearly empty to the planner, and its index large. What is taken back is looked
# for by its id nevertheless.
$other->value('BEGIN ISOLATION LEVEL REPEATABLE READ');
$other->value('SELECT pg_current_xact_id(), count(*) FROM ran');
$session->value(q[SELECT underway.enqueue_many('many', array_fill('{"name": "quick"}'::jsonb, ARRAY[5000]))]);
ok($session->until("NOT EXISTS (SELECT FROM underway_internal.task)", 60), 'many end under an old snapshot');
$session->value(q[SELECT underway.enqueue('many', delay => '1 day') FROM generate_series(1, 10)]);
$session->value('VACUUM ANALYZE underway_internal.task');
$session->value('BEGIN');
$session->value("SET LOCAL enable_$_ = off") for qw(seqscan bitmapscan hashjoin mergejoin);    # as our processes do (pg/identity.cpp)
is(entries_read('task_pkey', 'SELECT underway_internal.give_back(array_agg(gen_random_uuid()), array_agg(1)) FROM generate_series(1, 10)'),
    0, 'what is looked for by its id reads nothing else');
$_->value('ROLLBACK') for ($session, $other);
$session->value("SELECT underway.cancel(id) FROM underway.tasks WHERE state = 'pending'");

# Nor does a claim that has got what it wants read all that has ended behind it, to see whether there is more.
$session->value("SELECT underway.create_queue('late')");
$other->value('BEGIN');
$other->value("SELECT underway.enqueue('late')");
$session->value("SELECT underway.enqueue_many('late', array_fill('1'::jsonb, ARRAY[3000]))");
$session->value("CREATE TABLE held AS SELECT d.lease FROM underway.dequeue('late', 3000) d");
is($session->value('SELECT cardinality(underway.complete_many(array_agg(lease))) FROM held'), 3000, 'many end behind a task that has not committed');
$other->value('COMMIT');
$session->value('BEGIN');
cmp_ok(entries_read('task_pending', "CREATE TABLE claimed AS SELECT d.lease FROM underway.dequeue('late') d"), '<', 1500, 'when it has, it is claimed at once');
$session->value('COMMIT');
is($session->value('SELECT count(*) FROM claimed'), 1, 'alone');

# More claims at once than a queue has room to watch (16), some of which are rolled back.
$session->value("SELECT underway.create_queue('outside'), underway.enqueue_many('outside', array_fill('1'::jsonb, ARRAY[30]))");
my @clients = map { Session->new($node) } 1 .. 20;
my %task;
for my $client (@clients)
{
    $client->value('BEGIN');
    $task{ $client->value("SELECT id FROM underway.dequeue('outside')") } = $client;
}
is(scalar keys %task, 20, '20 claims at once, each of a task of its own');
$clients[$_]->value($_ % 3 ? 'COMMIT' : 'ROLLBACK') for 0 .. 19;
$_->close for @clients;
$session->value("SELECT underway.enqueue('outside', '2')");
# 13 have been taken for good.
is($session->value("SELECT count(*) FROM underway.dequeue('outside', 100)"), 18, 'what was rolled back, was left, or is new can be claimed');
is($session->value("SELECT count(*) FROM underway.dequeue('outside', 100)"), 0, 'and once only');

# Who comes to the same tasks in the same moment waits for nobody: what somebody is just taking is his, until when he ends.
@clients = map { Session->new($node) } 1 .. 4;
$_->value("SET lock_timeout = '10 s'") for @clients;
for my $round (1 .. 5)
{
    $session->value("SELECT underway.enqueue_many('outside', array_fill('1'::jsonb, ARRAY[2000]))");
    $_->value('BEGIN') for @clients;
    $_->send("SELECT count(*) FROM underway.dequeue('outside', 500)") for @clients;
    my @answers = map { $_->receive } @clients;
    is(join(' ', map { s/^[1-9]\d*$/some/r } @answers), 'some some some some', "four at once, none of whom ends before all have answers: $round");
    $_->value('COMMIT') for @clients;
    # One that has found some does not look for long among those that others are taking or have taken.
    my $rest = 0;
    while (my $more = $session->value("SELECT count(*) FROM underway.dequeue('outside', 2000)"))
    {
        $rest += $more;
    }
    is(sum(@answers) + $rest, 2000, 'each task for one of them');
}
$_->close for @clients;

# A task that the very transaction has made due, by a savepoint of its own, behind one that was due.
$session->value("SELECT underway.create_queue('again'), underway.enqueue('again')");
my ($again, $lease) = split /\|/, $session->value("SELECT id, lease FROM underway.dequeue('again')");
$session->value("SELECT underway.fail('$lease', 'not yet', retry_after => '1 h'), underway.enqueue('again')");
$session->value('BEGIN');
is($session->value("SELECT underway.retry('$again')"), 'pending', 'a task is made due');
is($session->value("SELECT count(*) FROM underway.dequeue('again', 2)"), 2, 'and dequeued with another by the same transaction');
$session->value('COMMIT');

# Two re-open the same task. One waits for the other, and hears of his commit only when the task has run and ended: it is not run again,
# whether its success is kept or not.
my $task;
for my $keep ('all', 'failed')
{
    my $queue = "reopened, $keep";
    $session->value("SELECT underway.create_queue('$queue', 'act', keep => '$keep'), underway.pause_queue('$queue')");
    $task = $session->value(qq[SELECT underway.enqueue('$queue', '{"name": "$queue"}', key => 'reopened', ttl => '1 ms')]);
    ok($session->until("(SELECT state = 'failed' FROM underway.status('$task'))"), "keep $keep: a task has ended");
    $session->value("SELECT underway.resume_queue('$queue')");
    $session->value('BEGIN');
    $session->value("SELECT underway.retry('$task')");
    my @slow = map { Session->new($node) } 1 .. 3;
    my @pids = map { $_->value('SELECT pg_backend_pid()') } @slow;
    is($other->value("SET lock_timeout = '60 s'; SELECT underway.enqueue('$queue', key => 'reopened') = '$task'; RESET lock_timeout"), 't', 'who enqueues with its key waits for nobody');
    $slow[2]->value("BEGIN ISOLATION LEVEL REPEATABLE READ");
    $slow[$_]->send(("SELECT underway.retry('$task')", "SELECT underway.redrive('$queue')", "SELECT underway.retry('$task')")[$_]) for 0 .. 2;
    ok($other->until("(SELECT count(DISTINCT pid) = 3 FROM pg_locks WHERE pid IN ($pids[0], $pids[1], $pids[2]) AND NOT granted)"), 'others wait for who re-opens it');
    kill 'STOP', @pids;
    $session->value('COMMIT');
    ok($other->until("NOT EXISTS (SELECT FROM underway_internal.task WHERE id = '$task')"), 'it runs');
    kill 'CONT', @pids;
    $slow[0]->receive;
    is($slow[0]->state, $keep eq 'all' ? '55000' : 'P0002', 'who retries it is told that it has succeeded, or is kept no more');
    is($slow[1]->receive, 0, 'who redrives is told that there was none');
    $slow[2]->receive;
    is($slow[2]->state, '40001', 'who has an older snapshot is refused');
    ok($session->until("NOT EXISTS (SELECT FROM underway_internal.task WHERE id = '$task')"), 'nothing is left to be run');
    is($session->value("SELECT count(*) FROM ran WHERE name = '$queue'"), 1, 'it ran once');
    is($session->value("SELECT count(*) FROM underway_internal.task_key WHERE task_id = '$task'"), $keep eq 'all' ? 1 : 0, 'its key is as it left it');
    $_->close for @slow;
}

# Retention empties a table, and somebody re-opens a task of it: the one waits for the other, and a task that goes on has its key.
$session->value("SELECT underway.create_queue('old')");
$session->value("SET deadlock_timeout = '10 min'");
my $rotation = Session->new($node);
$rotation->value("SET deadlock_timeout = '10 min'");
my $rotation_pid = $rotation->value('SELECT pg_backend_pid()');
my $rotate = "SELECT underway_internal.rotate('ended', 8, '0 s')";
for my $first ('who re-opens', 'retention')
{
    $task = $session->value("SELECT underway.enqueue('old', key => 'old')");
    my $old_lease = $session->value("SELECT lease FROM underway.dequeue('old')");
    $session->value("SELECT underway.fail('$old_lease', 'no', retryable => false)");
    my $next = "SELECT 8 + (r.slot - 8 + 1) % 8 FROM underway_internal.ring_slot r WHERE r.ring = 'ended' AND r.closed_at IS NULL";
    my $slot = $session->value("SELECT slot FROM underway_internal.archive WHERE id = '$task'");
    for (1 .. 8)
    {
        $rotation->value($rotate) unless $session->value($next) == $slot;
    }
    $session->value("BEGIN; SELECT count(*) FROM underway_internal.archive");
    if ($first eq 'retention')
    {
        $rotation->value("SET lock_timeout = '3 s'");
        $rotation->send($rotate);
        ok($other->until("EXISTS (SELECT FROM pg_locks WHERE pid = $rotation_pid AND mode = 'AccessExclusiveLock' AND NOT granted)"), 'retention waits for a reader');
        is($session->value("SELECT underway.retry('$task'); COMMIT"), 'pending', 'who re-opens a task');
        $rotation->receive;
    }
    else
    {
        is($session->value("SELECT underway.retry('$task')"), 'pending', 'somebody re-opens a task');
        $rotation->value("SET lock_timeout = '100 ms'");
        $rotation->query($rotate);
        $session->value('COMMIT');
    }
    is($rotation->state, '55P03', "$first first: retention gives way");
    is($rotation->value($rotate), 't', 'until later');
    is($session->value("SELECT count(*) FROM underway_internal.archive WHERE id = '$task'"), 0, 'how it ended is known no more');
    is($session->value("SELECT underway.enqueue('old', key => 'old') = '$task'"), 't', 'it has its key');
    $session->value("SELECT underway.purge_queue('old')");
}

# Two letters of one task, whose ends are kept no longer. Who waits for the other hears of his commit when the task has succeeded.
$session->value("SELECT underway.create_queue('old letters'), underway.alter_queue('old', dead_letter => 'old letters')");
$task = $session->value("SELECT underway.enqueue('old')");
my $take = "SELECT lease FROM underway.dequeue('old')";
my $failed = $session->value($take);
$session->value("SELECT underway.fail('$failed', 'no', retryable => false)");
$session->value("SELECT underway.retry('$task')");
$failed = $session->value($take);
$session->value("SELECT underway.fail('$failed', 'no', retryable => false)");
$rotation->value($rotate) for 1 .. 8;
is($session->value("SELECT count(*) FROM underway_internal.archive WHERE id = '$task'"), 0, 'two letters about what is known no more');
my $late = Session->new($node);
my $late_pid = $late->value('SELECT pg_backend_pid()');
$session->value('BEGIN');
is($session->value("SELECT underway.redrive('old letters', 1)"), 1, 'one is redriven');
$late->send("SELECT underway.redrive('old letters', 1)");
ok($other->until("EXISTS (SELECT FROM pg_locks WHERE pid = $late_pid AND NOT granted)"), 'who redrives the other waits');
kill 'STOP', $late_pid;
$session->value('COMMIT');
my $done = $session->value($take);
$session->value("SELECT underway.complete('$done')");
kill 'CONT', $late_pid;
is($late->receive, 0, 'he is told that there was none');
is($session->value("SELECT count(*) FROM underway_internal.task WHERE id = '$task'"), 0, 'nothing is left to be run');
is($session->value("SELECT string_agg(state || ' ' || reason, ', ') FROM underway.tasks WHERE source = '$task'"), 'cancelled redriven, cancelled redriven', 'both letters are gone');
$_->close for $late, $rotation;

# A letter whose original somebody is just re-opening: it has gone on by other means, and the letter goes.
$session->value(q[SELECT underway.create_queue('letters'), underway.create_queue('reopened', 'act', dead_letter => 'letters'), underway.pause_queue('reopened')]);
$task = $session->value(q[SELECT underway.enqueue('reopened', '{"name": "letter"}', ttl => '1 ms')]);
ok($session->until("EXISTS (SELECT FROM underway.tasks WHERE source = '$task')"), 'a task has a dead letter');
$session->value('BEGIN');
$session->value("SELECT underway.retry('$task')");
my $redriver = Session->new($node);
my $redriver_pid = $redriver->value('SELECT pg_backend_pid()');
$redriver->send("SELECT underway.redrive('letters')");
ok($other->until("EXISTS (SELECT FROM pg_locks WHERE pid = $redriver_pid AND NOT granted)"), 'who redrives it waits for who re-opens it');
$session->value('COMMIT');
is($redriver->receive, 0, 'he re-opens nothing');
is($session->value("SELECT state FROM underway.tasks WHERE source = '$task'"), 'cancelled', 'and the letter is gone');
$redriver->close;
$session->value(q[SELECT underway.resume_queue('reopened')]);

# Where all tables are published, a change of one without a replica identity is refused.
$session->value(q[SELECT underway.pause_queue('reopened')]);
$task = $session->value(q[SELECT underway.enqueue('reopened', '{"name": "published"}')]);
$session->value("SELECT underway.cancel('$task'), underway.resume_queue('reopened')");
$session->value('CREATE PUBLICATION everything FOR ALL TABLES');
is($session->query("SELECT underway.retry('$task')"), 'pending', 'a task is re-opened where all tables are published');
$session->value('DROP PUBLICATION everything');
ok($session->until("(SELECT state = 'succeeded' FROM underway.status('$task'))"), 'and runs');

# Whoever drops a queue holds up nobody who ends a task of it.
$other->value('SELECT pg_advisory_lock(1, 1)');
$session->value(q[SELECT underway.create_queue('keyed', 'act', keep => 'none'), underway.enqueue('keyed', '{"name": "gate"}', key => 'k')]);
ok($session->until(stands(1, 1)), 'a task with a key runs');
$session->value('BEGIN');
$session->value("SELECT underway.drop_queue('keyed', force => true)");
$other->value('SELECT pg_advisory_unlock(1, 1)');
ok($other->until("NOT EXISTS (SELECT FROM underway_internal.task_key WHERE key = 'k')", 30), 'it ends while its queue is being dropped');
$session->value('COMMIT');

# More claims in one transaction than are remembered: what is rolled back is found again, whoever has looked meanwhile.
$session->value("SELECT underway.create_queue('other side')");
for my $undo ('ROLLBACK', 'ROLLBACK TO s; COMMIT')
{
    $session->value("SELECT underway.enqueue_many('outside', array_fill('1'::jsonb, ARRAY[20])), underway.enqueue('other side')");
    $other->value('BEGIN');
    $other->value("SELECT underway.dequeue('outside') FROM generate_series(1, 20)");
    is($other->value("SAVEPOINT s; SELECT count(*) FROM underway.dequeue('other side')"), 1, 'one more claim than there is room for');
    is($session->value("SELECT count(*) FROM underway.dequeue('other side')"), 0, 'nothing is left for others');
    $other->value($undo);
    is($session->value("SELECT count(*) FROM underway.dequeue('other side')"), 1, "$undo: it is found again");
}

# A client whose snapshot is older than its claim learns all the same that there is nothing.
$other->value("SELECT count(*) FROM underway.dequeue('outside', 100)");
$other->value("SET default_transaction_isolation = 'repeatable read'");
is($other->value("SELECT count(*) FROM underway.dequeue('outside')"), 0, 'nothing to dequeue under REPEATABLE READ');
is($other->value("CALL underway.wait_for_work('{outside}', '0.1 s')"), '', 'nor to wait for');
$session->value("SELECT underway.enqueue('outside', delay => '1 h')");
is($other->value("SELECT count(*) FROM underway.dequeue('outside')"), 0, 'what is delayed is not due');
is($other->value("CALL underway.wait_for_work('{outside}', '0.1 s')"), '', 'as it knows');
$other->send("CALL underway.wait_for_work('{outside}', '30 s')");
$session->value("SELECT underway.enqueue('outside')");
is($other->receive, 'outside', 'it is woken for what comes');
is($other->value("SELECT count(*) FROM underway.dequeue('outside')"), 1, 'and gets it');
$session->value("SELECT underway.enqueue('outside')");
my $locker = Session->new($node);
$locker->value('BEGIN');
is($locker->value("SELECT count(*) FROM underway.dequeue('outside')"), 1, 'a task that somebody is claiming');
is($other->value("SELECT count(*) FROM underway.dequeue('outside')"), 0, 'is not to be had');
is($other->value("CALL underway.wait_for_work('{outside}', '0.1 s')"), '', 'nor to be waited for');
$other->send("CALL underway.wait_for_work('{outside}', '30 s')");
$locker->value('ROLLBACK');
is($other->receive, 'outside', 'before he lets it go');
is($other->value("SELECT count(*) FROM underway.dequeue('outside')"), 1, 'then it is');
$locker->close;
$other->value('RESET default_transaction_isolation');

# Several wait for one task.
$session->value("SELECT underway.create_queue('awaited', 'act'), underway.pause_queue('awaited')");
my $id = $session->value("SELECT underway.enqueue('awaited')");
my @waiting = map { Session->new($node) } 1 .. 4;
my @pids = map { $_->value('SELECT pg_backend_pid()') } @waiting;
$_->send("CALL underway.wait_for('$id', '30 s')") for @waiting[ 0, 1 ];
$_->send("SELECT state FROM underway.await('$id', '30 s')") for @waiting[ 2, 3 ];
ok($session->until('4 = (SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = $$Extension$$ AND pid IN (' . join(',', @pids) . '))'), 'four wait');
is($session->value("SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NULL AND backend_xmin IS NULL AND pid IN ($pids[0], $pids[1])"),
    2, 'wait_for without xid and xmin');
$session->value("SELECT underway.resume_queue('awaited')");
is(join(' ', map { $_->receive } @waiting), 'succeeded succeeded succeeded succeeded', 'all are woken');

# The safety check finds what nobody was told of: a task behind all that has been looked at, and one long overdue before it. Neither
# is found otherwise, whoever starts or ends.
sub new_coordinator
{
    my ($old) = $session->pids('coordinator');
    $session->value("SELECT pg_terminate_backend($old)");
    return $session->until("(SELECT pid <> $old AND state = 'idle' FROM pg_stat_activity WHERE backend_type = 'underway coordinator')", 30);
}
$session->value("SELECT underway.create_queue('unheard', 'act'), underway.enqueue('unheard')");
ok($session->until('NOT EXISTS (SELECT FROM underway_internal.task t JOIN underway_internal.queue q ON q.id = t.queue_id WHERE q.name = $$unheard$$) AND ' . idle(), 30), 'a queue has nothing to do');
$session->value('SELECT underway_internal.arm_waitpoints(1 << 10)');
my $late = $session->value("SELECT underway.enqueue('unheard')");
my $early = $session->value("SELECT underway.enqueue('unheard', run_at => now() - interval '1 day', priority => 3)");
my $first = $session->value("SELECT underway.enqueue('unheard', run_at => now() - interval '1 day')");
$session->value('SELECT underway_internal.arm_waitpoints(0)');
ok(new_coordinator(), 'another coordinator');
is($session->value("SELECT string_agg(state, ' ') FROM unnest(ARRAY['$late', '$early', '$first']::uuid[]) t, underway.status(t)"),
    'pending pending pending', 'nobody knows of three tasks');
$session->value('ALTER SYSTEM SET underway.safety_check_interval = $$1s$$');
$session->value('SELECT pg_reload_conf()');
ok(new_coordinator(), 'one that looks often');
ok($session->until("(SELECT bool_and(state = 'succeeded') FROM unnest(ARRAY['$late', '$early', '$first']::uuid[]) t, underway.status(t))", 30), 'the safety check finds them');

# Rows of `claim` get new entries without a look whether there is one of their slot: there is none, and each is found.
$session->value('CREATE EXTENSION amcheck');
is($session->value("SELECT bt_index_check('underway_internal.claim_pkey', true)"), '', 'the index of what workers have in hand is sound');
is($session->value('SELECT count(*) - count(DISTINCT slot) FROM underway_internal.claim'), 0, 'with one row a slot');

$_->close for @waiting, $other, $session;
$node->stop;
done_testing;
