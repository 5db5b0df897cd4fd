# DROP, RENAME, SET TABLESPACE of a database, and CREATE DATABASE ... TEMPLATE: prompt for those who may, though our processes are
# in it and busy; refused to others with nothing stopped; afterwards everything goes on.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Underway;

my $node = start_server('databases', conf => "underway.max_workers = 16\nmax_worker_processes = 32");
my $start = log_position($node);
my $space = PostgreSQL::Test::Utils::tempdir;
sql($node, 'postgres', <<"SQL");
CREATE ROLE owner LOGIN CREATEDB;
CREATE ROLE maker LOGIN CREATEDB;
CREATE ROLE other LOGIN;
CREATE TABLESPACE space LOCATION '$space';
GRANT CREATE ON TABLESPACE space TO owner;
SQL
sql($node, 'postgres', "CREATE DATABASE $_ OWNER owner") for ('app', 'side');
install($node, $_) for ('app', 'side');
sql($node, 'postgres', 'CREATE EXTENSION underway');    # to look from

# Two sleepers in app, whose first attempt nobody ends but a statement that needs the database.
sub make_busy
{
    my ($database) = @_;
    sql($node, $database, "TRUNCATE effect; SELECT underway.enqueue('sleeper') FROM generate_series(1, 2)");
    return workers_busy($node, $database, 2);
}

my $who = "SELECT string_agg(pid::text, ',' ORDER BY pid) FROM pg_stat_activity WHERE datname = '%s' AND backend_type LIKE 'underway%%'";

sub processes_of
{
    my ($database) = @_;
    return sql($node, 'postgres', sprintf($who, $database));
}

# Nothing was ended: the very same processes are there, at the same attempt.
sub refused
{
    my ($role, $statement, $expected) = @_;
    my $before = processes_of('app');
    within(4, "$statement by $role", sub { sql_fails($node, 'postgres', "SET ROLE $role;\n$statement", $expected, "$statement by $role") });
    is(processes_of('app'), $before, "$statement by $role: nothing is stopped");
    return;
}

# The tasks go on at their second attempt, or a later one where more than one statement was in the way; none has used a failure, each has its effect once.
sub goes_on
{
    my ($database, $name) = @_;
    wait_for($node, $database, "SELECT count(*) = 2 FROM effect WHERE attempt > 1", "$name: tasks in progress go on in $database");
    is(sql($node, $database, "SELECT count(*), sum(failures) FROM underway.tasks WHERE queue = 'sleeper' AND attempt > 1
        AND enqueued_at >= (SELECT min(at) - interval '1 h' FROM effect)"), sql($node, $database, "SELECT count(*), 0 FROM underway.tasks
        WHERE queue = 'sleeper'"), "$name: with no failure used");
    is(count_effects($node, $database), '2', "$name: each with its effect once");
    is_lively($node, $database, "$name: new ones run");
    return;
}

make_busy('app');
refused('other', 'DROP DATABASE app', qr/42501: must be owner of database app/);
refused('maker', 'DROP DATABASE app', qr/42501/);
refused('other', 'DROP DATABASE app WITH (FORCE)', qr/42501/);
refused('maker', 'ALTER DATABASE app RENAME TO gone', qr/42501/);
refused('maker', 'ALTER DATABASE app SET TABLESPACE space', qr/42501/);
refused('maker', 'CREATE DATABASE gone TEMPLATE app', qr/42501: permission denied to copy database/);
refused('other', 'CREATE DATABASE gone TEMPLATE app', qr/42501: permission denied to create database/);
sql($node, 'postgres', 'ALTER ROLE owner NOCREATEDB');
refused('owner', 'ALTER DATABASE app RENAME TO gone', qr/42501/);
refused('owner', 'CREATE DATABASE gone TEMPLATE app', qr/42501/);
sql($node, 'postgres', 'ALTER ROLE owner CREATEDB');

# Refused to everybody who is in the database itself: nothing has to leave for them.
my $before = processes_of('app');
sql_fails($node, 'app', "SET ROLE owner;\nALTER DATABASE app RENAME TO gone", qr/0A000: .*current database/, 'RENAME from within');
sql_fails($node, 'app', "SET ROLE owner;\nDROP DATABASE app", qr/55006: .*currently open/, 'DROP from within');
sql_fails($node, 'app', "SET ROLE owner;\nDO 'BEGIN CREATE DATABASE gone TEMPLATE app; END'", qr/25001/, 'TEMPLATE in a function');
is(processes_of('app'), $before, 'statements from within: nothing is stopped');
# A handler that does it has an error, and is not ended as in the way.
sql($node, 'app', <<'SQL');
CREATE FUNCTION renames() RETURNS void LANGUAGE sql AS 'ALTER DATABASE app RENAME TO gone';
SELECT underway.create_queue('renames', 'renames', retry => underway.retry_policy(max_attempts => 1));
SQL
my $renames = sql($node, 'app', "SELECT underway.enqueue('renames')");
is(sql($node, 'app', "SELECT state, sqlstate, crashes FROM underway.await('$renames', '30 s')"), 'failed|0A000|0', 'RENAME by a handler is an error of its own');
sql($node, 'app', "SELECT underway.drop_queue('renames')");

# Statements that fail after our processes had to leave: all goes on.
for my $case ([ 'ALTER DATABASE app RENAME TO side', qr/42P04/ ], [ 'CREATE DATABASE side TEMPLATE app', qr/42P04/ ],
    [ 'ALTER DATABASE app SET TABLESPACE nowhere', qr/42704/ ])
{
    my ($statement, $expected) = @$case;
    sql_fails($node, 'postgres', "SET ROLE owner;\n$statement", $expected, $statement);
}
goes_on('app', 'after statements that failed');
make_busy('app');
sql($node, 'postgres', 'BEGIN; SAVEPOINT s; ALTER DATABASE app RENAME TO renamed; ROLLBACK TO s; SELECT pg_sleep(0); COMMIT');
goes_on('app', 'RENAME rolled back to a savepoint');
make_busy('app');
sql($node, 'postgres', "DO 'BEGIN ALTER DATABASE app RENAME TO side; EXCEPTION WHEN duplicate_database THEN END'");
goes_on('app', 'RENAME that failed in a block that caught it');

# Somebody else is in the database: as without us, the statement waits for him and fails.
make_busy('app');
my $session = $node->background_psql('app');
sql_fails($node, 'postgres', "SET ROLE owner;\nALTER DATABASE app RENAME TO renamed", qr/55006: .*There is 1 other session/s, 'RENAME with a client in it');
is($session->query('SELECT 1'), '1', 'the client is still there');
$session->quit;
goes_on('app', 'RENAME that failed for a client');

# RENAME; two in one transaction.
make_busy($_) for ('app', 'side');
within(4, 'RENAME', sub { sql($node, 'postgres', "BEGIN; SET LOCAL ROLE owner; ALTER DATABASE app RENAME TO app2; ALTER DATABASE side RENAME TO side2; COMMIT") });
goes_on($_, 'RENAME') for ('app2', 'side2');
sql($node, 'postgres', 'ALTER DATABASE app2 RENAME TO app; ALTER DATABASE side2 RENAME TO side');
is(sql($node, 'postgres', 'SELECT sum(holds) FROM underway_internal.databases()'), '0', 'nothing is held any more');

# SET TABLESPACE.
make_busy('app');
within(4, 'SET TABLESPACE', sub { sql($node, 'postgres', 'SET ROLE owner; ALTER DATABASE app SET TABLESPACE space') });
goes_on('app', 'SET TABLESPACE');

# TEMPLATE: the original goes on, the copy is held until somebody says so.
make_busy('app');
sql($node, 'app', "SELECT underway.enqueue('note', run_at => now() + interval '1 day')");
my $position = log_position($node);
within(4, 'TEMPLATE', sub { sql($node, 'postgres', 'SET ROLE owner; CREATE DATABASE copy TEMPLATE app') });
goes_on('app', 'TEMPLATE');
$node->wait_for_log(qr/WARNING:  underway: 5 queues of this database are held.*\n.*HINT:.*underway\.adopt\(\)/, $position);
ok(1, 'the log says that the copy is held');
is(sql($node, 'copy', "SELECT DISTINCT state FROM underway.queues"), 'held', 'the queues of the copy are held');
my $new = sql($node, 'copy', "SELECT underway.enqueue('note')");
like(sql($node, 'copy', "SELECT underway.why('$new')"), qr/held/, 'why() says so');
sql($node, 'copy', "ALTER FUNCTION note STABLE; ALTER FUNCTION note VOLATILE; SELECT underway.alter_queue('note', priority => 3)");
is(count_effects($node, 'copy'), '0', 'nothing runs in the copy');
is(sql($node, 'copy', "SELECT count(*) FROM underway_internal.task WHERE state = 'in_progress'"), '2', 'what was in progress is as it was copied');
is(sql($node, 'copy', 'SELECT underway.adopt()'), '5', 'adopt()');
wait_for($node, 'copy', "SELECT count(*) = 2 FROM effect WHERE queue = 'sleeper' AND attempt = 2", 'then what was in progress goes on');
wait_for($node, 'copy', "SELECT state = 'succeeded' FROM underway.status('$new')", 'and what was enqueued');
sql($node, 'postgres', "SELECT underway.set_clock(now() + interval '2 days')");
wait_for($node, $_, "SELECT count(*) >= 1 FROM underway_internal.archive WHERE run_at > now() + interval '1 h' AND state = 'succeeded'",
    "what is due later runs in $_") for ('app', 'copy');
sql($node, 'postgres', 'SELECT underway.set_clock(NULL)');
is(log_has($node, $position, qr/queues of this database are held/), 1, 'the log has said it once');

# From within the database that is copied.
within(4, 'TEMPLATE of the own database', sub { sql($node, 'app', 'CREATE DATABASE copy2 TEMPLATE app') });
is_lively($node, 'app', 'TEMPLATE of the own database');

# A template with the extension in it can be copied by everybody who may create databases.
sql($node, 'template1', "CREATE EXTENSION underway");
$position = log_position($node);
within(4, 'CREATE DATABASE by another than the owner of template1', sub { sql($node, 'postgres', 'SET ROLE maker; CREATE DATABASE made') });
sql($node, 'made', "$Underway::handlers SELECT underway.create_queue('note', 'note')");
is_lively($node, 'made', 'a database made from such a template');
is(sql($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE datname = 'template1'"), '0', 'nothing runs in a template');
sql($node, 'template1', 'DROP EXTENSION underway');
sql($node, 'postgres', 'ALTER DATABASE made IS_TEMPLATE true');
sql($node, 'postgres', 'ALTER DATABASE made IS_TEMPLATE false');
is_lively($node, 'made', 'a database that is no template any more');

# DROP: this one by its owner from another database; another one while this one's workers are busy; with and without FORCE.
make_busy($_) for ('app', 'side');
my $side = processes_of('side');
my $app = processes_of('app');
sql_fails($node, 'app', 'DROP DATABASE app', qr/55006: cannot drop the currently open database/, 'DROP DATABASE of the own one');
is(processes_of('app'), $app, 'DROP DATABASE of the own one: nothing is stopped');
within(4, 'DROP DATABASE', sub { sql($node, 'side', 'SET ROLE owner; DROP DATABASE app') });
is(processes_of('side'), $side, 'other databases are left alone');
within(4, 'DROP DATABASE of an idle one', sub { sql($node, 'postgres', 'SET ROLE maker; DROP DATABASE made') });
within(4, 'DROP DATABASE of one that has nothing of ours', sub { sql($node, 'postgres', 'CREATE DATABASE plain; DROP DATABASE plain') });
make_busy('copy');
within(4, 'DROP DATABASE (FORCE)', sub { sql($node, 'postgres', 'SET ROLE owner; DROP DATABASE copy WITH (FORCE)') });
sql($node, 'postgres', 'DROP DATABASE copy2');

# One that is dropped while its coordinator is being started, which finds that out before it connects. The postmaster, which is to
# start it, is stopped meanwhile.
my $dropper = Session->new($node);
my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
END { kill 'CONT', $postmaster if $postmaster }
kill 'STOP', $postmaster;
$dropper->value('CREATE DATABASE brief');
ok($dropper->until("(SELECT count(*) = 1 FROM underway_internal.databases() x JOIN pg_database d ON d.oid = x.database WHERE d.datname = 'brief' AND NOT x.wanted)"),
    'a coordinator is asked for');
is($dropper->value('DROP DATABASE brief'), '', 'the database is dropped before it starts');
kill 'CONT', $postmaster;
$dropper->close;

wait_for($node, 'postgres', "SELECT array_agg(datname ORDER BY datname)::text = '{postgres,side}' FROM underway_internal.databases() d
    LEFT JOIN pg_database p ON p.oid = d.database", 'databases that are gone are forgotten');
is(sql($node, 'postgres', "SELECT count(*) FROM underway_internal.workers() w WHERE NOT EXISTS (SELECT FROM pg_database d WHERE d.oid = w.database)"),
    '0', 'with their slots');
sql($node, 'postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'underway worker'");
goes_on('side', 'after all that');

no_trouble_since($node, $start, 'nobody of ours had any trouble', qr/terminating background worker|queues of this database are held/);
$node->stop('fast');
done_testing();
