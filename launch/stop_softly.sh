# Sourced by torchrun.sh and mpirun.sh, which kill their ranks, or report a failure, where a run has been asked to save.
#
# run_and_stop_softly STOP COMMAND...  runs COMMAND in a session of its own (a terminal's Ctrl-C reaches this shell
# only) and returns its exit code. SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 call STOP with the command's process
# number, once; after the second the command itself gets SIGTERM.
run_and_stop_softly() {
    stop=$1
    shift
    if command -v setsid >/dev/null; then set -- setsid "$@"; fi
    "$@" &
    job=$!
    asked=
    trap 'if [ -z "$asked" ]; then asked=1; "$stop" "$job"; else kill -TERM "$job"; fi' TERM INT HUP USR1 USR2
    while true; do
        # A wait that a signal interrupts says nothing of the job, which is then still there.
        code=0
        wait "$job" || code=$?
        kill -0 "$job" 2>/dev/null || return "$code"
    done
}
