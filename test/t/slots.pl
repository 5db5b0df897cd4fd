# Too few background worker slots: said once, with the setting to raise; work goes on with the slots there are, and everybody gets
# his turn, roles of a database as well as databases, while the others have an endless backlog.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use Test::More;
use Underway;

# PostgreSQL's own logical replication launcher takes a slot, and so does our launcher.
my $taken = 2;

sub start_with
{
    my ($name, $slots, $workers) = @_;
    my $node = start_server($name, conf => "max_worker_processes = " . ($taken + $slots) . "\nunderway.max_workers = $workers");
    my $first = sql($node, 'postgres', "CREATE ROLE anna LOGIN; CREATE ROLE bert LOGIN; SELECT current_user");
    return $node;
}

sub make_backlog
{
    my ($node, $database, @roles) = @_;
    install($node, $database);
    sql($node, $database, "GRANT ALL ON effect, effect_id_seq TO PUBLIC; SELECT underway.drop_queue('endless')");
    for my $role (@roles)
    {
        sql($node, $database, "SELECT underway.create_queue('$role', 'endless', run_as => '$role');
            SELECT underway.enqueue('$role', '{\"queue\": \"$role\"}') FROM generate_series(1, 8)");
    }
    return;
}

# Each time anew: both have work done after now, twice in turn.
sub take_turns
{
    my ($node, $name, @queues) = @_;
    for my $round (1, 2)
    {
        my $now = sql($node, 'postgres', 'SELECT clock_timestamp()');
        for my $queue (@queues)
        {
            my ($database, $role) = @$queue;
            wait_for($node, $database, "SELECT EXISTS (SELECT FROM effect WHERE queue = '$role' AND at > '$now')", "$name: $role in $database, turn $round");
        }
    }
    return;
}

# Two roles, one worker.
my $node = start_with('roles', 6, 1);
make_backlog($node, 'postgres', 'anna', 'bert');
take_turns($node, 'one worker, two roles', [ 'postgres', 'anna' ], [ 'postgres', 'bert' ]);
is(sql($node, 'postgres', "SELECT count(*) FROM effect WHERE by <> queue"), '0', 'each runs as its own role');
$node->wait_for_log(qr/WARNING:  underway: all 1 workers are in use.*\n.*HINT:  Raise underway.max_workers \(now 1\)/, 0);
ok(1, 'the shortage is reported, with the setting to raise');

# Two databases, one worker.
sql($node, 'postgres', "CREATE DATABASE second");
sql($node, 'postgres', "SELECT underway.drop_queue('bert', force => true)");
make_backlog($node, 'second', 'bert');
take_turns($node, 'one worker, two databases', [ 'postgres', 'anna' ], [ 'second', 'bert' ]);

# A role that comes with one task does not wait for those with an endless backlog.
my $id = sql($node, 'second', "SELECT underway.enqueue('note')");
wait_for($node, 'second', "SELECT state = 'succeeded' FROM underway.status('$id')", 'a third role has its turn too');
is(log_has($node, 0, qr/WARNING:  underway: all 1 workers are in use/), 1, 'the shortage was reported once');
$node->append_conf('postgresql.conf', 'underway.max_workers = 4');
$node->reload;
wait_for($node, 'postgres', "SELECT count(*) = 4 FROM pg_stat_activity WHERE backend_type = 'underway worker'", 'raised, four workers');
wait_for($node, 'postgres', "SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'underway worker' AND datname = 'postgres'",
    'evenly shared between the databases');
$node->stop('fast');

# Slots for a coordinator and two workers, where four were wanted.
$node = start_with('slots', 3, 4);
make_backlog($node, 'postgres', 'anna', 'bert');
take_turns($node, 'two slots, two roles', [ 'postgres', 'anna' ], [ 'postgres', 'bert' ]);
$node->wait_for_log(qr/WARNING:  underway: no background worker slot is free; work goes on with 2 workers/, 0);
$node->wait_for_log(qr/HINT:  Raise max_worker_processes \(now 5\)/, 0);
ok(1, 'the shortage is reported with the setting to raise');
# Another database, which has no coordinator yet.
sql($node, 'postgres', "CREATE DATABASE second");
make_backlog($node, 'second', 'bert');
take_turns($node, 'three slots, two databases', [ 'postgres', 'anna' ], [ 'postgres', 'bert' ], [ 'second', 'bert' ]);
is(log_has($node, 0, qr/WARNING:  underway/), 1, 'once');
$node->stop('fast');

# The least that can work: a slot for a coordinator and one for a worker. Two databases take turns.
$node = start_with('least', 2, 4);
make_backlog($node, 'postgres', 'anna');
sql($node, 'postgres', "CREATE DATABASE second");
make_backlog($node, 'second', 'bert');
take_turns($node, 'two slots, two databases', [ 'postgres', 'anna' ], [ 'second', 'bert' ]);
is(log_has($node, 0, qr/WARNING:  underway/), 1, 'reported once');
$node->restart;
take_turns($node, 'two slots, two databases, after a restart', [ 'postgres', 'anna' ], [ 'second', 'bert' ]);
$node->stop('fast');

# No slot at all: said, and the server does its work; with slots again everything runs.
$node = start_with('none', 0, 4);
install($node, 'postgres');
$node->wait_for_log(qr/WARNING:  underway: no background worker slot is free for a coordinator\n.*HINT:  Raise max_worker_processes \(now 2\)/, 0);
$id = sql($node, 'postgres', "SELECT underway.enqueue('note')");
is(sql($node, 'postgres', "SELECT state FROM underway.status('$id')"), 'pending', 'tasks wait');
$node->append_conf('postgresql.conf', 'max_worker_processes = 8');
$node->restart;
wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$id')", 'with slots they run');
$node->stop('fast');

done_testing();
