#!/usr/bin/env perl
# A caller in Perl, with nothing but what Perl comes with: perl examples/guard.pl URL PROMPT [RESPONSE]
#   URL  of Triton's HTTP endpoint, such as http://127.0.0.1:8000
# Prints one JSON line: decision, reason, user, response, judged. Exit status: 0 allowed, 1 not allowed, 3 no verdict
# (then the line holds kind, field and message). Whatever is not read as `allow` is not allowed.
use strict;
use warnings;
use Encode qw(decode);
use HTTP::Tiny;
use JSON::PP;

my ($url, $prompt, $response) = map { decode('UTF-8', $_) } @ARGV;
die "usage: perl guard.pl URL PROMPT [RESPONSE]\n" unless defined $prompt;
my $seconds = 60;
my $json = JSON::PP->new->utf8->canonical;

sub tensor {
    my ($name, $datatype, $value) = @_;
    return {name => $name, datatype => $datatype, shape => [1, 1], data => [$value]};
}

my @inputs = (
    tensor('CONTRACT_VERSION', 'INT32', 1),
    tensor('REQUEST_ID', 'BYTES', "perl-$$"),
    tensor('PROMPT', 'BYTES', $prompt),
    tensor('MODE', 'BYTES', 'verdict'),
    tensor('DEADLINE_MS', 'INT32', $seconds * 1000),
);
push @inputs, tensor('RESPONSE', 'BYTES', $response) if defined $response;
# Without P_UNSAFE: its NaN for a side that was not judged is no JSON.
my @outputs = map { {name => $_} } qw(DECISION DECISION_REASON USER_SAFETY RESPONSE_SAFETY RECORD);

# A little longer than the deadline: the server's own error, which comes by then, says more than a timeout.
my $reply = HTTP::Tiny->new(timeout => $seconds + 5)->post(
    "$url/v2/models/guard/infer",
    {content => $json->encode({inputs => \@inputs, outputs => \@outputs}),
     headers => {'Content-Type' => 'application/json'}},
);

sub finish {
    my ($status, %line) = @_;
    print $json->encode(\%line), "\n";
    exit $status;
}

if (!$reply->{success}) {
    my $body = eval { $json->decode($reply->{content}) };
    my $text = ref $body eq 'HASH' ? $body->{error} // '' : '';
    if ($text =~ /tritonguard:([a-z_]+)(?: field=([A-Za-z0-9_.\[\]-]+))?: ([^\n]*)/) {
        finish(3, kind => $1, field => $2, message => $3);
    }
    # Not reached, or an error of Triton's own, which has no kind: the status decides.
    my $kind = {400 => 'invalid_request', 404 => 'unavailable', 503 => 'unavailable', 599 => 'unavailable'};
    finish(3, kind => $kind->{$reply->{status}} // 'internal', field => undef, message => "status $reply->{status}");
}

my %value = map { $_->{name} => $_->{data}[0] } @{$json->decode($reply->{content})->{outputs}};
my $record = $json->decode(Encode::encode('UTF-8', $value{RECORD}));
finish(
    $value{DECISION} eq 'allow' ? 0 : 1,
    decision => $value{DECISION},
    reason   => $value{DECISION_REASON},
    user     => $value{USER_SAFETY},
    response => $value{RESPONSE_SAFETY},
    judged   => $record->{judged},
);
