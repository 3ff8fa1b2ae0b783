// Package trainer is what a training process uses to speak with the agent on
// its node: it reports what the training does, takes directives, saves and
// resumes.
//
// Guarantees, in the order in which they matter to a training loop:
//
//   - [Session.Step] never blocks and never fails. Reports wait in a bounded
//     queue that drops its oldest; drops are counted and reported.
//   - Without an agent everything is a quiet no-op that says so once, and the
//     session keeps trying to meet one. After a restart of the agent it
//     registers again and goes on.
//   - Events reach the agent in the order in which they happened, at least
//     once: a call that broke off is made again with the same event ids.
//   - What is urgent, such as [Session.NonFinite], is sent at once, together
//     with all that waits before it.
//
// A loop looks like this:
//
//	session, err := trainer.Connect(ctx, config, deps)
//	defer session.Close(ctx)
//	ref, _, err := session.Resume(ctx)
//	for ... {
//		compute gradients
//		if a gradient is not finite {
//			order := session.NonFinite(ctx, what)
//			session.Save(ctx, order, metadata, write) // the state before this step
//			exit with protocol.RestartExitCode
//		}
//		apply the gradients
//		session.Step(report)
//		if order := session.PendingOrder(); order != nil {
//			session.Save(ctx, order, metadata, write)
//		}
//	}
package trainer
