# Pages whose examples are run: they show what the page shows.
package Examples;

use strict;
use warnings;
use Exporter 'import';
use IPC::Run;
use Test::More;

our @EXPORT = qw(run_examples);

# Blocks marked sql, in order; one marked text or mermaid is the output of the sql block before it.
sub examples {
    my ($text) = @_;
    my (@examples, $kind, $started);
    my $number = 0;
    for my $line (split /\n/, $text) {
        $number++;
        if ($line =~ /^```(\w*)$/) {
            if (defined $kind) {
                undef $kind;
            } else {
                ($kind, $started) = ($1, $number);
                push @examples, { line => $number, sql => '' } if $kind eq 'sql';
                $examples[-1]{output} = '' if $kind =~ /^(text|mermaid)$/ && @examples;
            }
        } elsif (defined $kind) {
            $examples[-1]{sql} .= "$line\n" if $kind eq 'sql';
            $examples[-1]{output} .= "$line\n" if $kind =~ /^(text|mermaid)$/ && @examples;
        }
    }
    return @examples;
}

# What differs from run to run: ids, times, process ids, and the width of the columns that they stand in.
sub normalised {
    my ($text) = @_;
    $text =~ s/\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/ID/g;
    $text =~ s/\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?[+-]\d\d\b/TIME/g;
    $text =~ s/\b\d\d:\d\d:\d\d(\.\d+)?\b/SPAN/g;
    $text =~ s/\bpid \d+/pid N/g;
    $text =~ s/\bbackground worker \d+/background worker N/g;
    $text =~ s/^[-+]{3,}$//mg;
    $text =~ s/[ \t]+/ /g;
    $text =~ s/\s*\n\s*/\n/g;
    $text =~ s/^\s+|\s+$//g;
    return $text;
}

# In that database, one after the other in one psql; a test for each.
sub run_examples {
    my ($connstr, $text) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @examples = examples($text);
    my $script = join '', map { "\\echo <<$_>>\n$examples[$_]{sql}\n" } 0 .. $#examples;
    my $all = '';
    # Its standard input, so that messages bear no line numbers; both outputs into one, which psql keeps in order.
    IPC::Run::run([ 'psql', '-X', '-q', '-d', $connstr ], '<', \$script, '>', \$all, '2>&1');
    my (undef, %shown) = split /^<<(\d+)>>\n/m, $all;
    for my $n (0 .. $#examples) {
        my ($line, $output) = @{ $examples[$n] }{qw(line output)};
        my $shown = $shown{$n} // '(psql did not get here)';
        if (defined $output) {
            is(normalised($shown), normalised($output), "the example of line $line shows what is written");
        } else {
            unlike($shown, qr/^(ERROR|WARNING|FATAL|psql):|did not get here/m, "the example of line $line runs");
        }
    }
    return;
}

1;
