# Hand-over: the transaction that enqueues a task claims it for an idle worker in its own commit, or leaves it to the workers; and
# what becomes of task and worker when something happens to one of them between that claim and the commit.
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

my $node = start_server('hand_over', extension => 1, conf => <<'END');
max_prepared_transactions = 2
underway.max_workers = 1
END
my $session = Session->new($node);
my $client = Session->new($node);
$session->value(<<'END');
CREATE TABLE ran (name text, claim xid, attempt int DEFAULT underway.attempt());
-- Who wrote the row as the handler finds it has claimed it.
CREATE FUNCTION act(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.ran SELECT act.input ->> 'name', t.xmin FROM underway_internal.task t WHERE t.id = underway.task_id();
END $$;
CREATE FUNCTION put(name text, queue text DEFAULT 'q', delay interval DEFAULT NULL) RETURNS uuid LANGUAGE sql AS
    $$ SELECT underway.enqueue(queue, jsonb_build_object('name', name), delay) $$;
SELECT underway.create_queue('q', 'act'), underway.create_queue('batch', 'act', batch => 10),
    underway.create_queue('one', 'act', concurrency => 1), underway.create_queue('async', 'act', durability => 'async');
END

sub ran { my $name = shift; return "EXISTS (SELECT FROM ran WHERE name = '$name')" }
sub all_idle { return "1 = (SELECT count(*) FROM underway_internal.workers() w WHERE w.state = 'idle')" }

# An idle worker, that knows the queues as they are.
sub rest
{
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $session->until('NOT EXISTS (SELECT FROM underway_internal.task WHERE run_at <= clock_timestamp()) AND ' . all_idle(), 30)
      or die 'no worker is idle: ' . $session->query('SELECT * FROM underway_internal.workers()');
    return;
}

# It runs; was it claimed by the client's transaction?
sub runs_handed
{
    my ($name, $statements, $handed, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    rest();
    my ($xid) = $client->value("BEGIN;\n$statements;\nSELECT pg_current_xact_id()::xid;\nCOMMIT") =~ /(\d+)\s*$/;
    ok($session->until(ran($name), 30), "$what: it runs");
    is($session->value("SELECT claim = '$xid' FROM ran WHERE name = '$name'"), $handed ? 't' : 'f', $handed ? '... handed over' : '... not handed over');
    return;
}

$session->value("SELECT put('warm')");
ok($session->until(ran('warm'), 30), 'there is a worker');

runs_handed('single', "SELECT put('single')", 1, 'one task');
runs_handed('batch', "SELECT put('batch', 'batch')", 1, 'one task of a queue with batches');
runs_handed('async', "SELECT put('async', 'async')", 1, 'one task of an async queue');
runs_handed('second', "SAVEPOINT s; SELECT put('second'); RELEASE SAVEPOINT s", 1, 'one task of a savepoint that is released');
rest();
is($client->value("SELECT put('alone')") =~ /^[0-9a-f-]{36}$/, 1, 'a statement of its own enqueues');
ok($session->until(ran('alone'), 30), '... and the task runs');

runs_handed('a', "SELECT put('a'), put('b')", 0, 'one of two tasks');
ok($session->until(ran('b'), 30), '... so does the other');
runs_handed('many', q[SELECT underway.enqueue_many('q', ARRAY['{"name": "many"}']::jsonb[])], 0, 'enqueue_many()');
runs_handed('lazy', "SET LOCAL synchronous_commit = off; SELECT put('lazy')", 0, 'a commit that is not flushed');
runs_handed('read only', "SELECT put('read only'); SET TRANSACTION READ ONLY", 0, 'a transaction that has become read-only');
runs_handed('limited', "SELECT put('limited', 'one')", 0, 'a queue with a limit');
runs_handed('gone', "SAVEPOINT s; SELECT put('none'); ROLLBACK TO SAVEPOINT s; SELECT put('gone')", 0, 'one task after another that is rolled back');
for my $level ('REPEATABLE READ', 'SERIALIZABLE')
{
    runs_handed($level, "SET TRANSACTION ISOLATION LEVEL $level; SELECT put('$level')", 0, $level);
}
is($session->value("SELECT count(*) FROM ran WHERE name = 'none'"), 0, 'what was rolled back did not');

# A task that is rolled back alone leaves nothing to look at: no table is locked for it, nothing is recorded for a worker.
rest();
my $recorded = $session->value('SELECT xmin, ctid, * FROM underway_internal.claim');
$client->query("BEGIN;\nSAVEPOINT s;\nSELECT put('none');\nROLLBACK TO SAVEPOINT s");
my $locker = Session->new($node);
my $committer = $client->value('SELECT pg_backend_pid()');
$locker->value("BEGIN;\nLOCK TABLE underway_internal.task IN ACCESS EXCLUSIVE MODE");
$client->send('COMMIT');
ok($session->until("(SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $committer)", 30), 'a commit with a task that was rolled back does not wait for the table');
$locker->value('COMMIT');
$client->receive;
is($session->value('SELECT xmin, ctid, * FROM underway_internal.claim'), $recorded, 'one task that is rolled back alone is not handed over');
rest();

# What the transaction goes on to do with its task counts.
rest();
my $id = $client->value("BEGIN;\nSELECT put('cancelled');") =~ s/\s//gr;
$client->query("SELECT underway.cancel('$id');\nCOMMIT");
is($session->value("SELECT state FROM underway.status('$id')"), 'cancelled', 'a task that is cancelled in its transaction is cancelled');
$id = $client->value("BEGIN;\nSELECT put('paused');") =~ s/\s//gr;
$client->query("SELECT underway.pause('$id');\nCOMMIT");
is($session->value("SELECT state FROM underway.status('$id')"), 'waiting', 'one that is paused waits');
$session->value("SELECT underway.resume('$id')");
ok($session->until(ran('paused'), 30), '... and runs when it is resumed');
rest();
$client->query("BEGIN;\nSELECT put('due');\nSELECT put('later', delay => '1 hour');\nCOMMIT");
ok($session->until(ran('due'), 30), 'a task that is due runs');
rest();
$session->value(q[SELECT underway.set_clock(now() + interval '2 hours')]);
ok($session->until(ran('later'), 30), '... and another of its transaction when it is due');
$session->value('SELECT underway.set_clock(NULL)');
rest();
$client->query("BEGIN;\nSELECT put('prepared');\nPREPARE TRANSACTION 'p'");
ok($session->value('SELECT ' . all_idle()) eq 't', 'PREPARE TRANSACTION reserves nobody');
$session->value("COMMIT PREPARED 'p'");
ok($session->until(ran('prepared'), 30), '... and its task runs');

rest();
$session->value("SELECT underway.create_queue('brief', 'act', ttl => '1 ms')");
for my $enqueue (q[underway.enqueue('q', '{"name": "lapsed"}', ttl => '1 ms')], q[underway.enqueue('brief', '{"name": "lapsed"}')])
{
    rest();
    $id = $client->value("BEGIN;\nSELECT $enqueue;\nSELECT pg_sleep(0.01);\nCOMMIT") =~ s/\s//gr;
    ok($session->until("(SELECT state = 'failed' FROM underway.status('$id'))", 30), "$enqueue that commits too late ends");
    is($session->value("SELECT reason FROM underway.tasks WHERE id = '$id'"), 'expired', '... without having run');
}
is($session->value('SELECT ' . ran('lapsed')), 'f', 'neither has an effect');

# Order: what is due comes first, also where nobody has been told of it yet.
rest();
my ($coordinator) = $session->pids('coordinator');
kill 'STOP', $coordinator;
$id = $session->value("SELECT put('first', delay => '0.2 s')");
my $due = $session->value("SELECT run_at FROM underway.status('$id')");
ok($session->until("clock_timestamp() > '$due'"), 'a task has become due and nobody is told');
$client->value("SELECT put('then')");
kill 'CONT', $coordinator;
ok($session->until(ran('first') . ' AND ' . ran('then'), 30), '... it runs, and one that was enqueued after that');
is($session->value("SELECT string_agg(name, ' ' ORDER BY ctid) FROM ran WHERE name IN ('first', 'then')"), 'first then', '... in the order in which they were due');

# Nobody waits for a table that somebody has locked: the worker does.
rest();
$session->value("BEGIN;\nLOCK TABLE underway_internal.claim IN ACCESS EXCLUSIVE MODE");
$client->value("SELECT put('beside')");
$session->value('COMMIT');
ok($session->until(ran('beside'), 30), 'while the table of claims is locked, enqueue does not wait');

# Held between the claim and the commit.
my $holder = Session->new($node);
sub hold
{
    my $name = shift;
    rest();
    arm($holder, 13);
    $client->send("SELECT put('$name')");
    $session->until(held_at(13), 30)
      or die 'nothing is handed over';
    return;
}
sub client_pid { return $session->value(q[SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 7867 AND objid = 13 AND NOT granted]) }

hold('plain');
is($session->value('SELECT ' . all_idle()), 'f', 'who is about to be handed a task is not idle');
$session->value("SELECT put('meanwhile')");
disarm($holder);
like($client->receive, qr/^[0-9a-f-]{36}$/, 'a commit that hands over a task');
ok($session->until(ran('plain'), 30), '... and it runs');
ok($session->until(ran('meanwhile'), 30), '... and what came meanwhile');

hold('worker terminated');
my ($worker) = $session->pids('worker');
$session->value("SELECT pg_terminate_backend($worker)");
ok($session->until("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $worker)", 30), 'the worker is terminated before the commit');
disarm($holder);
like($client->receive, qr/^[0-9a-f-]{36}$/, '... that is no error of it');
ok($session->until(ran('worker terminated'), 30), '... and the task goes on with another one');
is($session->value("SELECT attempt FROM ran WHERE name = 'worker terminated'"), 1, '... as if nobody had taken it');

hold('client terminated');
my $pid = client_pid();
$session->value("SELECT pg_terminate_backend($pid)");
ok($session->until("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)", 30), 'the client is terminated before the commit');
disarm($holder);
$client->connect;
runs_handed('after it', "SELECT put('after it')", 1, 'a task after it');
is($session->value('SELECT ' . ran('client terminated')), 'f', 'his never was');

hold('both terminated');
$pid = client_pid();
($worker) = $session->pids('worker');
$session->value("SELECT pg_terminate_backend($worker)");
ok($session->until("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $worker)", 30), 'the worker is terminated, and then');
$session->value("SELECT pg_terminate_backend($pid)");
ok($session->until("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)", 30), '... the client');
disarm($holder);
$client->connect;
$session->value("SELECT put('after both')");
ok($session->until(ran('after both'), 30), '... and a task after them runs');
is($session->value("SELECT count(*) FROM underway_internal.workers()"), 1, '... and no slot is left over');

hold('statement cancelled');
$session->value('SELECT pg_cancel_backend(' . client_pid() . ')');
$client->receive;
is($client->state, '57014', 'a commit that is cancelled while it hands over');
disarm($holder);
runs_handed('after cancel', "SELECT put('after cancel')", 1, '... a task after it');
is($session->value('SELECT ' . ran('statement cancelled')), 'f', '... its own never was');

hold('queue paused');
$session->value("SELECT underway.pause_queue('q')");
disarm($holder);
$client->receive;
ok($session->until(all_idle(), 30), 'the queue is paused before the commit: the worker begins nothing');
$id = $client->answer;
is($session->value("SELECT concat_ws('|', state, attempt, losses) FROM underway.status('$id')"), 'pending|0|0', '... and has given the task back');
$session->value("SELECT underway.resume_queue('q')");
ok($session->until(ran('queue paused'), 30), '... which runs when it is resumed');

hold('handler renamed');
$session->value('ALTER FUNCTION act(jsonb) RENAME TO acted');
disarm($holder);
$client->receive;
$id = $client->answer;
ok($session->until("underway.why('$id') ~ 'does not exist'", 30), 'the handler is renamed before the commit: the queue is blocked');
is($session->value("SELECT concat_ws('|', state, attempt, failures, losses) FROM underway.status('$id')"), 'pending|0|0|0', '... and no attempt is used');
$session->value('ALTER FUNCTION acted(jsonb) RENAME TO act');
ok($session->until(ran('handler renamed'), 30), '... it runs when it is back');

hold('queue limited');
$session->value("SELECT underway.alter_queue('q', concurrency => 1)");
my $xid = $session->value('SELECT backend_xid FROM pg_stat_activity WHERE pid = ' . client_pid());
disarm($holder);
$client->receive;
ok($session->until(ran('queue limited'), 30), 'a limit is set before the commit: the task runs');
is($session->value("SELECT claim <> '$xid' AND attempt = 1 FROM ran WHERE name = 'queue limited'"), 't', '... given back and claimed under that limit');
$session->value("SELECT underway.alter_queue('q', reset => ARRAY['concurrency'])");

hold('table rewritten');
my $vacuum = Session->new($node);
$vacuum->send('VACUUM FULL underway_internal.task');
ok($session->until("EXISTS (SELECT FROM pg_locks WHERE relation = 'underway_internal.task'::regclass AND NOT granted)", 30), 'somebody waits to rewrite the table');
disarm($holder);
$client->receive;
$vacuum->receive;
ok($session->until(ran('table rewritten'), 30), '... the worker finds the task all the same');

hold('queue dropped');
$session->value("SELECT underway.drop_queue('q', force => true)");
disarm($holder);
$client->receive;
$id = $client->answer;
ok($session->until("(SELECT state = 'failed' FROM underway.status('$id'))", 30), 'the queue is dropped before the commit: the task fails');
is($session->value("SELECT concat_ws('|', state, reason) FROM underway.tasks WHERE id = '$id'"), 'failed|queue dropped', '... for that reason');
$session->value("SELECT underway.create_queue('q', 'act')");
$session->value("SELECT put('new queue')");
ok($session->until(ran('new queue'), 30), '... and a new queue of that name runs');

# Between the commit and the begin: the worker has been told and does not move.
my $stopped;
sub stop_worker
{
    my ($name, $queue) = @_;
    rest();
    ($stopped) = $session->pids('worker');
    kill 'STOP', $stopped;
    $id = $client->value("SELECT put('$name', '" . ($queue // 'q') . "')");
    is($session->value("SELECT concat_ws('|', state, attempt) FROM underway.status('$id')"), 'in_progress|1', "$name: the task is claimed and has not begun");
    return;
}
sub resume_worker { return kill 'CONT', $stopped }

stop_worker('terminated then');
kill 'TERM', $stopped;
resume_worker();
ok($session->until(ran('terminated then'), 30), '... its worker is terminated: another one runs it');
is($session->value("SELECT concat_ws('|', attempt, losses) FROM underway.status('$id')"), '1|0', '... as if nobody had taken it');

for my $queue ('q', 'batch')
{
    stop_worker('cancelled then', $queue);
    $session->value("SELECT underway.cancel('$id')");
    resume_worker();
    ok($session->until("(SELECT state = 'cancelled' FROM underway.status('$id'))", 30), '... it is cancelled');
    stop_worker("retired then, $queue", $queue);
    $session->value("ALTER ROLE CURRENT_USER SET work_mem = '5MB'");
    resume_worker();
    ok($session->until(ran("retired then, $queue"), 30), '... the worker is to leave: another one runs it');
    is($session->value("SELECT concat_ws('|', attempt, losses) FROM underway.status('$id')"), '1|0', '... as if nobody had taken it');
}
is($session->value('SELECT ' . ran('cancelled then')), 'f', 'nothing that was cancelled has run');

# A handler that comes to be somebody else's is not run with the rights of the queue's owner.
$session->value(<<'END');
CREATE ROLE owner LOGIN;
CREATE ROLE another;
GRANT CREATE ON SCHEMA public TO another, owner;
CREATE FUNCTION theirs(input jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
ALTER FUNCTION theirs OWNER TO owner;
SELECT underway.create_queue('theirs', 'theirs', run_as => 'owner');
SELECT underway.enqueue('theirs');
END
ok($session->until("EXISTS (SELECT FROM underway_internal.workers() w WHERE w.role = 'owner'::regrole AND w.state = 'idle')", 60), 'a worker of another role is there');
$session->value('ALTER FUNCTION theirs OWNER TO another');
$id = $client->value("SELECT underway.enqueue('theirs')");
ok($session->until("underway.why('$id') ~ 'blocked'", 30), 'a handler that is another role\'s by now blocks the queue');
is($session->value("SELECT concat_ws('|', state, attempt, failures) FROM underway.status('$id')"), 'pending|0|0', '... and has not run');
$session->value("SELECT underway.drop_queue('theirs', force => true)");
$session->value("DROP FUNCTION theirs; DROP OWNED BY owner, another; DROP ROLE owner, another");
$session->value("SELECT put('own')");
ok($session->until(ran('own'), 60), '... others run');

# The server goes down.
hold('server killed');
my ($killed) = $session->pids('worker');
kill 'KILL', $killed;
$client->receive;
is($client->state, 'lost', 'the worker is killed before the commit: the server starts anew');
for my $s ($session, $client, $holder) { 1 until $s->connect }
$session->value("SELECT put('after the crash')");
ok($session->until(ran('after the crash'), 60), '... and goes on');
is($session->value('SELECT ' . ran('server killed')), 'f', '... the task never was');

stop_worker('server killed then');
kill 'KILL', $stopped;
for my $s ($session, $client, $holder) { $s->query('SELECT'); 1 until $s->connect }
ok($session->until(ran('server killed then'), 60), '... the server goes down: it runs after the recovery');
is($session->value("SELECT concat_ws('|', attempt, crashes) FROM underway.status('$id')"), '2|1', '... charged with a crash, as what was in progress');

is($session->value(q[SELECT count(*) FROM ran GROUP BY name HAVING count(*) > 1]), '', 'nothing ran twice');
is($session->value('SELECT count(*) FROM underway_internal.task'), 0, 'nothing is left');
is($session->value('SELECT string_agg(problem, $$ $$) FROM underway.check_health()'), '', 'all is well');

# Who may only enqueue hands over too, and can do nothing else by it.
$session->value(<<'END');
CREATE ROLE web LOGIN;
SELECT underway.grant_queue('q', 'web', '{enqueue}');
END
rest();
my $web = Session->new($node, user => 'web');
my ($by) = $web->value("BEGIN;\nSELECT underway.enqueue('q', '{\"name\": \"web\"}');\nSELECT pg_current_xact_id()::xid;\nCOMMIT") =~ /(\d+)\s*$/;
ok($session->until(ran('web'), 30), 'a role that may only enqueue: its task runs');
is($session->value("SELECT claim = '$by' FROM ran WHERE name = 'web'"), 't', '... handed over');
$web->query('SELECT * FROM underway_internal.claim');
is($web->state, '42501', '... and what it wrote in there it cannot read');
is($web->value('SELECT current_user'), 'web', '... and it is who it was');

# Another session drops the database while a task is handed over in it.
$session->value('CREATE DATABASE other');
my $inside = Session->new($node, dbname => 'other');
$inside->value("CREATE EXTENSION underway;\nCREATE FUNCTION nothing() RETURNS void LANGUAGE sql AS 'SELECT';\nSELECT underway.create_queue('q', 'nothing');\nSELECT underway.enqueue('q')");
my $theirs = "(SELECT oid FROM pg_database WHERE datname = 'other')";
ok($session->until("EXISTS (SELECT FROM underway_internal.workers() w WHERE w.database = $theirs AND w.state = 'idle')", 60), 'another database has an idle worker');
my $gate = Session->new($node, dbname => 'other');
arm($gate, 13);
$inside->send("SELECT underway.enqueue('q')");
ok($session->until("EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = $theirs AND classid = 7867 AND objid = 13 AND NOT granted)", 30), '... that is being handed a task');
$session->value('DROP DATABASE other WITH (FORCE)');
$session->value('SELECT underway_internal.arm_waitpoints(0)');
ok($session->until('NOT EXISTS (SELECT FROM underway_internal.workers() w WHERE w.database NOT IN (SELECT oid FROM pg_database))', 30), 'DROP DATABASE: no slot is left of it');
$session->value("SELECT put('after the drop')");
ok($session->until(ran('after the drop'), 60), '... and others run');

# An extension that is gone before the commit.
rest();
$client->value("BEGIN;\nSELECT put('last');\nDROP EXTENSION underway CASCADE;\nCOMMIT");
is($session->value("SELECT count(*) FROM pg_extension WHERE extname = 'underway'"), 0, 'DROP EXTENSION after an enqueue commits');
done_testing();
