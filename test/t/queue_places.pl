# underway.max_queues limits how many queues there are, not how many there ever were: the place of one that was dropped, or whose
# creation was rolled back, is for another.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use Test::More;
use Underway;

my $places = 16;
my $node = start_server('queue_places', conf => "underway.max_queues = $places");
sql($node, 'postgres', q(CREATE EXTENSION underway;
	CREATE FUNCTION echo(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
	SELECT underway.create_queue('stays', 'echo')));

sql($node, 'postgres', "DO \$\$ BEGIN
	FOR n IN 1..2 * $places LOOP
		PERFORM underway.create_queue('rolled back');
		ROLLBACK;
	END LOOP;
END \$\$");
pass('of transactions that were rolled back');

sql($node, 'postgres', "BEGIN;
	DO \$\$ BEGIN
		FOR n IN 1..2 * $places LOOP
			BEGIN
				PERFORM underway.create_queue('undone');
				RAISE no_data_found;
			EXCEPTION WHEN no_data_found THEN NULL;
			END;
		END LOOP;
	END \$\$;
	SAVEPOINT s;
	SELECT underway.create_queue('kept');
	RELEASE s;
	SAVEPOINT s;
	SELECT underway.create_queue('not kept');
	ROLLBACK TO s;
	COMMIT");
is(sql($node, 'postgres', "SELECT string_agg(name, ', ' ORDER BY name) FROM underway.queues"), 'kept, stays', 'of savepoints');

# The coordinator gives the place of a dropped queue up, after the commit.
for my $n (1 .. 2 * $places)
{
	$node->poll_query_until('postgres', "SELECT underway.create_queue('dropped') = 'dropped'") or last;
	sql($node, 'postgres', "SELECT underway.drop_queue('dropped')");
}
pass('of queues that were dropped');

# One that was dropped while a task was on its way into it, with its place given to others by then.
my $late = $node->background_psql('postgres');
sql($node, 'postgres', "SELECT underway.create_queue('dropped', 'echo')");
my $id = $late->query_safe("BEGIN; SELECT underway.enqueue('dropped')");
sql($node, 'postgres', "SELECT underway.drop_queue('dropped')");
for my $n (3 .. $places)
{
	$node->poll_query_until('postgres', "SELECT underway.create_queue('queue $n', 'echo') = 'queue $n'");
}
$late->query_safe('COMMIT');
$late->quit;
is(sql($node, 'postgres', "SELECT state || ', ' || reason FROM underway.await('$id')"), 'failed, queue dropped',
	'a task that comes too late ends');

for my $queue ('stays', "queue $places")
{
	my $task = sql($node, 'postgres', "SELECT underway.enqueue('$queue', '1')");
	is(sql($node, 'postgres', "SELECT state FROM underway.await('$task')"), 'succeeded', "$queue is worked");
}
sql_fails($node, 'postgres', "SELECT underway.create_queue('one too many')", qr/53400.*no room/, 'one more');

done_testing();
