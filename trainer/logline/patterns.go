package logline

import (
	"regexp"
	"sync"
)

// float is a number as printf writes it.
const float = `[-+]?(?:\d[\d,]*\.?\d*(?:[eE][-+]?\d+)?|nan|NaN|inf|Inf)`

// once compiles a pattern when it is first needed.
func once(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}

var (
	controlSequence = once(`\x1b\[[0-9;?]*[A-Za-z]`)

	// iter 40: loss 6.2081, time 48.67ms, mfu 10.07%
	nanoGPTStep = once(`^iter (?P<step>\d+): loss (?P<loss>` + float + `), time (?P<ms>` + float + `)ms`)
	// step 0: train loss 10.9210, val loss 10.9209
	nanoGPTEvaluation = once(`^step (?P<step>\d+): train loss (?P<train>` + float + `), val loss (?P<loss>` + float + `)$`)

	// [rank0]:[titan] 2025-10-30 14:32:58,990 - root - INFO - step:  2  loss:  6.1098  grad_norm:  4.6416  memory: ...
	torchtitanStep = once(`(?:^|\s)step:\s+(?P<step>\d+)\s+loss:\s+(?P<loss>` + float + `)\s+(?:grad_norm:\s+(?P<norm>` + float + `)\s+)?m?memory:`)

	// iteration        1/    5000 | consumed samples:          128 | ... | lm loss: 1.043863E+01 | ...
	megatronStep       = once(`^(?:\[[^\]]*\]\s*)*iteration\s+(?P<step>\d+)/\s*\d+\s+\|(?P<fields>.*)$`)
	megatronEvaluation = once(`^(?:\[[^\]]*\]\s*)*validation loss at iteration (?P<step>\d+)\s*\|\s*lm loss value:\s*(?P<loss>` + float + `)`)

	// {'loss': 0.6909, 'grad_norm': 0.6776, 'learning_rate': 0.00062, 'epoch': 1.05}
	transformersRecord = once(`\{('[A-Za-z0-9_/.-]+': (?:'[^']*'|[^,{}']+)(?:, )?)+\}`)
	transformersField  = once(`'(?P<name>[A-Za-z0-9_/.-]+)': '?(?P<value>` + float + `)'?`)

	// Epoch 0:   6%|▌         | 86/1563 [00:06<01:44, 14.19it/s, v_num=0, train_loss=1.800]
	tqdmBar   = once(`^(?:(?P<label>[^|%]*?):?\s+)?\s*(?:\d+%)?\|[^|]*\|\s*(?P<n>\d+)/(?P<total>\d+|\?) \[[^\[\]<]*<[^\[\],]*,\s*[^\[\],]*(?P<fields>,[^\[\]]*)?\]?`)
	tqdmField = once(`(?P<name>[A-Za-z0-9_/.-]+)=(?P<value>` + float + `)(?:,|\]|$|\s)`)
	epochWord = once(`(?i)\bepoch\D{0,3}(?P<epoch>\d+)`)
)
