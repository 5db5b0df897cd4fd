# CREATE, ALTER and DROP EXTENSION, committed and rolled back, idle and busy, in several databases at once.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use Session;
use Test::More;
use Underway;

my $node = start_server('extension');
my $start = log_position($node);
my $none = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'underway%' AND datname = 'postgres')";

# The launcher looks into each database at its start. From a database that has the extension one sees when that is over.
sql($node, 'postgres', 'CREATE DATABASE observer');
sql($node, 'observer', 'CREATE EXTENSION underway');
my $quiet = "SELECT count(*) = 1 FROM underway_internal.databases()";
wait_for($node, 'observer', 'SELECT count(*) = 1 AND bool_and(coordinator IS NOT NULL) FROM underway_internal.databases()',
    'only of the database that has the extension anything is kept');
is(our_processes($node, 'postgres'), '', 'without the extension nothing runs in a database');
is(our_processes($node), 'underway coordinator, underway launcher', 'what runs: the launcher, and a coordinator where the extension is');

# Rolled back.
sql($node, 'postgres', 'BEGIN; CREATE EXTENSION underway; ROLLBACK');
is(our_processes($node, 'postgres'), '', 'CREATE EXTENSION rolled back starts nothing');
sql($node, 'postgres', 'BEGIN; SAVEPOINT s; CREATE EXTENSION underway; ROLLBACK TO s; COMMIT');
wait_for($node, 'observer', $quiet, 'rolled back to a savepoint neither, for long');
sql_fails($node, 'postgres', 'CREATE SCHEMA underway; CREATE EXTENSION underway', qr/42P06/, 'a schema of its name that another made');
is(our_processes($node, 'postgres'), '', 'CREATE EXTENSION that fails starts nothing');
sql($node, 'postgres', 'DROP SCHEMA underway');

# Committed.
install($node, 'postgres');
wait_for($node, 'postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'underway coordinator' AND datname = 'postgres'",
    'CREATE EXTENSION committed starts a coordinator');
is_lively($node, 'postgres', 'and tasks run');
is(sql($node, 'postgres', "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'underway worker' AND datname = 'postgres'"), 't',
    'in a worker');
is(sql($node, 'postgres', "SELECT string_agg(by, ',') FROM effect"), sql($node, 'postgres', 'SELECT current_user'), 'as the owner of the queue');

# DROP rolled back.
sql($node, 'postgres', 'BEGIN; DROP EXTENSION underway CASCADE; ROLLBACK');
is_lively($node, 'postgres', 'DROP EXTENSION rolled back: tasks run on');
sql($node, 'postgres', 'BEGIN; SAVEPOINT s; DROP EXTENSION underway CASCADE; ROLLBACK TO s; COMMIT');
is_lively($node, 'postgres', 'rolled back to a savepoint: tasks run on');
for my $schema ('underway', 'underway_internal')
{
    sql_fails($node, 'postgres', "DROP SCHEMA $schema CASCADE", qr/2BP01: cannot drop schema $schema because extension underway requires it/,
        "DROP SCHEMA $schema");
}
sql_fails($node, 'postgres', 'CREATE ROLE bystander LOGIN; SET ROLE bystander; DROP EXTENSION underway', qr/42501: must be owner of extension/,
    'DROP EXTENSION by another');
sql_fails($node, 'postgres', 'DROP TABLE underway_internal.task', qr/2BP01/, 'DROP TABLE of ours');
is_lively($node, 'postgres', 'tasks run on');

# ALTER.
sql($node, 'postgres', 'ALTER EXTENSION underway UPDATE');
sql($node, 'postgres', 'CREATE FUNCTION extra() RETURNS int LANGUAGE sql RETURN 1;
    ALTER EXTENSION underway ADD FUNCTION extra(); ALTER EXTENSION underway DROP FUNCTION extra(); DROP FUNCTION extra()');
sql_fails($node, 'postgres', 'ALTER EXTENSION underway SET SCHEMA public', qr/0A000/, 'ALTER EXTENSION SET SCHEMA');
is_lively($node, 'postgres', 'ALTER EXTENSION: tasks run on');

# DROP committed, idle.
within(4, 'DROP EXTENSION, idle', sub { sql($node, 'postgres', 'DROP EXTENSION underway CASCADE; DROP TABLE effect') });
wait_for($node, 'postgres', $none, 'DROP EXTENSION ends our processes');
is(sql($node, 'postgres', "SELECT count(*) FROM pg_proc WHERE proname = 'endless'"), '0', 'and whatever used our types went with it');
sql($node, 'postgres', 'DROP FUNCTION note, fails, held, sleeper');
no_trouble_since($node, $start, 'all that without an error of ours', qr/terminating background worker/);

# Again, and busy: a handler that runs for long holds nothing of ours.
for my $how ('DROP EXTENSION underway CASCADE', 'DROP OWNED BY CURRENT_USER CASCADE', 'DROP EXTENSION underway CASCADE')
{
    my $database = 'db' . ++(our $n);
    my $owner = $how =~ /OWNED/ ? 'SET ROLE owner;' : '';
    sql($node, 'postgres', "CREATE ROLE owner SUPERUSER LOGIN") if $n == 1;
    sql($node, 'postgres', "CREATE DATABASE $database OWNER owner");
    sql($node, $database, "$owner CREATE EXTENSION underway");
    sql($node, $database, "RESET ROLE; $Underway::handlers SELECT underway.create_queue(h, h) FROM unnest('{note,sleeper}'::text[]) h");
    sql($node, $database, "SELECT underway.enqueue('sleeper') FROM generate_series(1, 2)");
    workers_busy($node, $database, 2);
    within(4, "$how, busy", sub { sql($node, $database, "$owner $how") });
    wait_for($node, 'postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'underway%' AND datname = '$database')",
        'ends busy workers');
    is(count_effects($node, $database), '0', 'what they had done is undone');
    # Created again at once, and by another.
    sql($node, $database, 'CREATE EXTENSION underway; DROP EXTENSION underway; CREATE EXTENSION underway');
    sql($node, $database, "SELECT underway.create_queue('note', 'note')");
    is_lively($node, $database, 'created again it runs');
}

# Created again in one transaction: numbers of queues begin anew, old marks must not count.
sql($node, 'db1', "SELECT underway.enqueue('note', run_at => '2999-01-01')");
sql($node, 'db1', "BEGIN; DROP EXTENSION underway CASCADE; CREATE EXTENSION underway; SELECT underway.create_queue('note', 'note'); COMMIT");
is_lively($node, 'db1', 'dropped and created in one transaction it runs');

# A session that remembers a queue, and the table that it inserts into.
my $session = Session->new($node, dbname => 'db1');
my $enqueue = "SELECT underway.enqueue('note', run_at => '2999-01-01') IS NOT NULL, underway.enqueue('note') IS NOT NULL";
is($session->query($enqueue), 't|t', 'enqueues');
sql($node, 'db1', "DROP EXTENSION underway CASCADE; CREATE EXTENSION underway; SELECT underway.create_queue('other'), underway.create_queue('later')");
$session->query($enqueue);
is($session->state, '42704', 'made again, the extension has no such queue for who had enqueued before');
sql($node, 'db1', "SELECT underway.create_queue('note', 'note')");
is($session->query($enqueue), 't|t', 'until it is created');
$session->query("BEGIN; DROP EXTENSION underway CASCADE; CREATE EXTENSION underway; SELECT underway.create_queue('other'), underway.create_queue('note')");
is($session->query($enqueue), 't|t', 'made again in its own transaction');
is($session->query("SELECT string_agg(q.name, ',') FROM underway_internal.task t JOIN underway_internal.queue q ON q.id = t.queue_id"), 'note,note',
    'into the new queue');
$session->query('ROLLBACK');
is($session->query($enqueue), 't|t', 'rolled back: into the old one');
is($session->query("SELECT count(DISTINCT t.queue_id) FROM underway_internal.task t"), '1', 'and no other');
$session->close;
is_lively($node, 'db1', 'which runs');

# All of them at once.
is_lively($node, $_, "$_ goes on") for ('db1', 'db2', 'db3');
is(sql($node, 'postgres', "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_stat_activity WHERE backend_type = 'underway coordinator'"),
    'db1,db2,db3,observer', 'one coordinator in each database');

# By a prepared transaction, which fires no callback of its own.
sql($node, 'postgres', "BEGIN; CREATE EXTENSION underway; PREPARE TRANSACTION 'create'");
is(our_processes($node, 'postgres'), '', 'prepared, CREATE EXTENSION starts nothing');
sql($node, 'postgres', "COMMIT PREPARED 'create'");
wait_for($node, 'postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'underway coordinator' AND datname = 'postgres'",
    'COMMIT PREPARED does');
sql($node, 'postgres', "BEGIN; DROP EXTENSION underway; PREPARE TRANSACTION 'drop'");
sql($node, 'postgres', "COMMIT PREPARED 'drop'");
wait_for($node, 'postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'underway%' AND datname = 'postgres')",
    'and of DROP EXTENSION ends them');

# Who waits for a task when its extension goes is told so.
my $waiter = Session->new($node, dbname => 'db2');
my $awaited = $waiter->value("SELECT underway.create_queue('external');\nSELECT underway.enqueue('external')") =~ s/.*\n//r;
$waiter->send("CALL underway.wait_for('$awaited')");
wait_for($node, 'postgres', "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%wait_for(%' AND wait_event_type = 'Extension' AND datname = 'db2')",
    'one waits for a task');
within(4, 'DROP EXTENSION, with one who waits', sub { sql($node, 'db2', 'DROP EXTENSION underway CASCADE') });
$waiter->receive;
is($waiter->state, '42704', 'who waited is told');
like($waiter->answer, qr/extension "underway" does not exist in this database/, 'what happened');
unlike($waiter->answer, qr/underway_internal/, 'and nothing of our insides');
$waiter->close;

is(sql($node, 'db1', "SELECT count(*) FROM underway_internal.workers() WHERE state IN ('starting', 'dead')"), '0', 'no slot is left behind');
$node->stop('fast');
done_testing();
