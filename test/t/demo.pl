# The workflow of the demo: copyright files are read, a map over their paragraphs looks for licences, and where none is known a person is asked.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use Test::More;
use Underway;

my $node = start_server('demo', extension => 1, conf => "underway.max_workers = 2\n");
sql($node, 'postgres', "\\i test/demo/$_.sql") for qw(handler workflow workflows);

# Some of this machine's, and three of which it is known what they say.
sql($node, 'postgres', <<'END');
\copy demo.file FROM PROGRAM 'test/demo/files | head -n 30'
INSERT INTO demo.file SELECT 'test-' || name, convert_to(content, 'UTF8') FROM (VALUES
    ('two', E'License: GPL-2\n\nFiles: a/*\nLicense: Expat\n\nNothing about it here.\n\nThe Boost Software License.'),
    ('none', E'Files: *\n\nWritten by Eve.'),
    ('own', E'License: custom\n\nYou may use this with the permission of Eve.')) f(name, content);
SELECT count(underway.start('review', jsonb_build_object('package', package), key => package)) FROM demo.file;
END

sub of { return "underway.find_run('review', 'test-$_[0]')" }
sub review { return sql($node, 'postgres', "SELECT licences, coalesce(person, '-') FROM demo.review WHERE package = 'test-$_[0]'") }

wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status(${\of('two')})", 'a file with known licences is done');
is(review('two'), '["Boost", "GPL", "MIT"]|-', 'with the licences of all its paragraphs');
is(sql($node, 'postgres', "SELECT string_agg(format('%s %s', item, output), ', ' ORDER BY item) FROM underway.history(${\of('two')}) WHERE step = 'detect' AND item IS NOT NULL"),
    '0 ["GPL"], 1 ["MIT"], 2 ["Boost"]', 'each found by a child of the map');
for my $unknown (qw(none own))
{
    wait_for($node, 'postgres', "SELECT state = 'waiting' FROM underway.status(${\of($unknown)})", "$unknown: nothing is known, and the run waits");
    like(sql($node, 'postgres', "SELECT underway.why(${\of($unknown)})"), qr/^waiting: step "ask" waits for signal "licence" until /, "$unknown: for a person");
}
sql($node, 'postgres', "SELECT underway.signal(${\of('own')}, 'licence', '{\"licences\": [\"custom\"], \"person\": \"eve\"}')");
wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status(${\of('own')})", 'the answer ends the run');
is(review('own'), '["custom"]|eve', 'and is kept');
is(review('none'), '', 'the other waits on');

wait_for($node, 'postgres', "SELECT count(*) = 0 FROM underway.runs WHERE workflow = 'review' AND state NOT IN ('succeeded', 'waiting', 'failed')", 'the files of this machine too');
is(sql($node, 'postgres', "SELECT string_agg(DISTINCT error, '; ') FROM underway.runs WHERE workflow = 'review' AND state = 'failed' AND error NOT LIKE '%invalid byte sequence%'"),
    '', 'are read, but for what is no text');
my $diagram = sql($node, 'postgres', "SELECT underway.explain_workflow('review', format => 'mermaid')");
like($diagram, qr/^flowchart TD\n.*read<br\/>demo\.split.*detect<br\/>.*summarise<br\/>.*ask<br\/>wait for signal licence.*keep<br\/>/s, 'its diagram shows the steps');

$node->stop;
done_testing();
