# A rank with a helper that left its process group. Arguments: what it does, a directory, its rank.
what=$1 where=$2 rank=$3
[ "$what" != deaf ] || trap '' TERM
setsid sleep 1000 </dev/null >/dev/null 2>&1 &
echo $! >"$where/pid-$!"
echo $$ >"$where/pid-$$"
case $what in
"fails once") [ "$rank$VIGIL_ATTEMPT" != 10 ] || exit 3 ;;
deaf | waits)
	: >"$where/ready-$rank"
	while :; do sleep 0.05; done
	;;
esac
