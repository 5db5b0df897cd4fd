# pg_dump and restore, with workers running all the while: nothing of the copy runs until adopt(), then all of it does. pg_upgrade
# finds nothing to complain about.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Underway;

my $node = start_server('dump', conf => "underway.max_workers = 12\nmax_worker_processes = 24\nautovacuum = off");
install($node, 'postgres');
my $tmp = PostgreSQL::Test::Utils::tempdir;

# Something of everything: finished, failed, waiting for its time, for a person, in progress; a dead letter; a key; a grant; a queue
# that was dropped; one whose role the restore has not made yet.
sql($node, 'postgres', <<'SQL');
CREATE ROLE anna LOGIN;
SELECT underway.create_queue('dead'), underway.create_queue('external'), underway.create_queue('gone', 'note');
SELECT underway.alter_queue('fails', dead_letter => 'dead', retry => underway.retry_policy(max_attempts => 1));
SELECT underway.create_queue('annas', 'note', run_as => 'anna', settings => '{"work_mem": "5MB"}'), underway.grant_queue('annas', 'anna');
SELECT underway.drop_queue('gone');
SELECT underway.pause_queue('annas');
SELECT underway.enqueue('annas', '"paused"');
SELECT underway.enqueue('external', '"external"');
SELECT underway.enqueue('note', to_jsonb(n), key => 'key ' || n) FROM generate_series(1, 5) n;
SELECT underway.enqueue('fails');
SELECT underway.enqueue('note', '"tomorrow"', delay => '1 day');
SELECT underway.enqueue('sleeper') FROM generate_series(1, 2);
SQL
wait_for($node, 'postgres', "SELECT count(*) = 6 FROM underway_internal.archive", 'there is something to dump');
workers_busy($node, 'postgres', 2);
# A row of 'endless' comes and goes all the while.
sql($node, 'postgres', "SELECT underway.enqueue('endless', '{\"queue\": \"endless\"}')");
my $counts = "SELECT (SELECT string_agg(queue || ' ' || state || ' ' || n, ', ' ORDER BY queue, state) FROM (
    SELECT queue, state, count(*) AS n FROM underway.tasks WHERE queue <> 'endless' GROUP BY 1, 2) s),
    (SELECT count(*) FROM underway_internal.task_key), (SELECT count(*) FROM underway_internal.queue_grant)";
my $before = sql($node, 'postgres', $counts);
my %dump = (plain => "$tmp/plain.sql", custom => "$tmp/custom.dump");
$node->command_ok([ 'pg_dump', '-Fp', '-f', $dump{plain}, 'postgres' ], 'pg_dump, plain');
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump{custom}, 'postgres' ], 'pg_dump, custom format');
$node->command_ok([ 'pg_dumpall', '-f', "$tmp/all.sql" ], 'pg_dumpall');

sub is_held_until_adopted
{
    my ($n, $database, $name, $position) = @_;
    is(sql($n, $database, $counts), $before, "$name: everything is there");
    is(sql($n, $database, "SELECT string_agg(DISTINCT state, ',') FROM underway.queues"), 'held', "$name: and held");
    # What was restored is seen by our processes; and the log says so, once.
    $n->wait_for_log(qr/WARNING:  underway: 8 queues of this database are held/, $position);
    my $id = sql($n, $database, "SELECT underway.enqueue('note', '\"new\"')");
    my $effects = sql($n, $database, 'SELECT count(*) FROM effect');
    is_lively($n, 'postgres', "$name: the original runs meanwhile") if $n == $node;
    is(sql($n, $database, "SELECT count(*) FROM effect"), $effects, "$name: nothing runs");
    is(sql($n, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE datname = '$database' AND backend_type = 'underway worker'"), '0',
        "$name: no worker is there") if $database ne 'postgres';
    is(sql($n, $database, 'SELECT underway.adopt()'), '8', "$name: adopt()");
    wait_for($n, $database, "SELECT state = 'succeeded' FROM underway.status('$id')", "$name: then it runs");
    wait_for($n, $database, "SELECT count(*) = 2 FROM underway.tasks WHERE queue = 'sleeper' AND state = 'succeeded' AND attempt = 2",
        "$name: and what was in progress");
    wait_for($n, $database, "SELECT count(*) > $effects + 10 FROM effect", "$name: and the endless one");
    is(sql($n, $database, "SELECT count(*) FROM underway.tasks WHERE state = 'pending' AND queue IN ('annas', 'external', 'note')"), '3',
        "$name: what waits, waits");
    is(sql($n, $database, "SELECT underway.enqueue('note', '\"again\"', key => 'key 3') = (SELECT id FROM underway.tasks WHERE key = 'key 3')"), 't',
        "$name: keys are still taken");
    is(log_has($n, $position, qr/WARNING:  underway: 8 queues/), 1, "$name: the log has said it once");
    is(log_has($n, $position, qr/ERROR:  (?!role ".*" already exists)|PANIC:/), 0, "$name: no error");
    return;
}

my $position = log_position($node);
sql($node, 'postgres', 'CREATE DATABASE plain');
$node->command_ok([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-f', $dump{plain}, '-d', $node->connstr('plain') ], 'restore, plain');
is_held_until_adopted($node, 'plain', 'plain', $position);

$position = log_position($node);
sql($node, 'postgres', 'CREATE DATABASE custom');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-j', '2', '-d', $node->connstr('custom'), $dump{custom} ], 'restore, custom format, in parallel');
is_held_until_adopted($node, 'custom', 'custom', $position);

# Into the same name, after the database was dropped: that is another database.
$position = log_position($node);
sql($node, 'postgres', 'DROP DATABASE custom; CREATE DATABASE custom');
$node->command_ok([ 'pg_restore', '--exit-on-error', '--single-transaction', '-d', $node->connstr('custom'), $dump{custom} ],
    'restore into the same name, in a single transaction');
is_held_until_adopted($node, 'custom', 'the same name', $position);

# A dump of what was adopted can be restored again; by somebody who drops what is there first.
$position = log_position($node);
$node->command_ok([ 'pg_restore', '--exit-on-error', '--clean', '--if-exists', '-d', $node->connstr('custom'), $dump{custom} ],
    'restore over what is there, --clean');
is_held_until_adopted($node, 'custom', '--clean', $position);

# pg_dumpall into another server.
my $other = start_server('other', conf => "autovacuum = off\nunderway.max_workers = 8");
$other->command_ok([ 'psql', '-XAtq', '-f', "$tmp/all.sql", '-d', $other->connstr('postgres') ], 'restore of pg_dumpall');
is_held_until_adopted($other, 'postgres', 'pg_dumpall', 0);
$other->stop('fast');

# pg_upgrade, from this version to itself.
$node->stop('fast');
my $new = start_server('new', stopped => 1);
my @upgrade = ('pg_upgrade', '--no-sync', '-d', $node->data_dir, '-D', $new->data_dir, '-b', $node->config_data('--bindir'),
    '-B', $new->config_data('--bindir'), '-s', $node->host, '-p', $node->port, '-P', $new->port);
chdir $tmp or die $!;
$node->command_ok([ @upgrade, '--check' ], 'pg_upgrade --check');
$node->command_ok(\@upgrade, 'pg_upgrade');
$new->start;
is(sql($new, 'postgres', "SELECT string_agg(DISTINCT state, ',') FROM underway.queues"), 'held', 'another system: held until somebody says so');
is(sql($new, 'postgres', 'SELECT underway.adopt()'), '8', 'adopt()');
wait_for($new, 'postgres', "SELECT count(*) = 2 FROM underway.tasks WHERE queue = 'sleeper' AND state = 'succeeded'", 'then it goes on');
is_lively($new, 'postgres', 'new ones run');
$new->stop('fast');

done_testing();
